"""Decoders: from the best candidates of every entity, both ways, to matched pairs. One file each.

A decoder is a function from `Candidates` to a `Matching`; its file ends with the line that registers its name.
"""

from loginmea_fast.evaluation.decoders import csls, mutual_nearest  # noqa: F401  (importing registers them)
from loginmea_fast.evaluation.decoders.base import (
    Candidates,
    Decoder,
    Matching,
    TopK,
    decoder_names,
    find_candidates,
    get_decoder,
    register_decoder,
)
from loginmea_fast.evaluation.decoders.cosine import nearest
from loginmea_fast.evaluation.decoders.one_to_one import greedy, one_to_one
from loginmea_fast.evaluation.decoders.sinkhorn import sinkhorn
from loginmea_fast.evaluation.decoders.threshold import best_threshold

__all__ = [
    "Candidates",
    "Decoder",
    "Matching",
    "TopK",
    "best_threshold",
    "decoder_names",
    "find_candidates",
    "get_decoder",
    "greedy",
    "nearest",
    "one_to_one",
    "register_decoder",
    "sinkhorn",
]
