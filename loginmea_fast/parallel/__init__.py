"""Training in several processes on torch.distributed: entities divided by rows (docs/scale.md, Many processes)."""

from loginmea_fast.parallel.shards import Shards, ShardView
from loginmea_fast.parallel.world import ALONE, World, world

__all__ = ["ALONE", "ShardView", "Shards", "World", "world"]
