"""Training in several processes on torch.distributed: entities divided by rows (docs/scale.md, Many processes)."""

from loginmea_fast.parallel.search import SpreadRows
from loginmea_fast.parallel.shards import Shards, ShardView, division_of, shards_of, world_of
from loginmea_fast.parallel.world import ALONE, World, world

__all__ = [
    "ALONE",
    "ShardView",
    "Shards",
    "SpreadRows",
    "World",
    "division_of",
    "shards_of",
    "world",
    "world_of",
]
