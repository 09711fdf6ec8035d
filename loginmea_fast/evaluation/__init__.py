"""Evaluation: metrics of ranks and of links, and decoding of embeddings into named pairs."""

from loginmea_fast.evaluation.decoding import Decoded, Decoding, Match, decode
from loginmea_fast.evaluation.embedding import joint_embedding
from loginmea_fast.evaluation.links import evaluate_links, rank_links
from loginmea_fast.evaluation.metrics import alignment_metrics, random_baseline, rank_metrics

__all__ = [
    "Decoded",
    "Decoding",
    "Match",
    "alignment_metrics",
    "decode",
    "evaluate_links",
    "joint_embedding",
    "random_baseline",
    "rank_links",
    "rank_metrics",
]
