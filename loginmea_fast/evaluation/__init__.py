"""Evaluation: metrics of ranks and of links, and decoding of embeddings into named pairs."""

from loginmea_fast.evaluation.decoding import Decoded, Decoding, Match, decode
from loginmea_fast.evaluation.embedding import Embedding, JointEmbedding
from loginmea_fast.evaluation.links import evaluate_links, rank_links
from loginmea_fast.evaluation.metrics import alignment_metrics, random_baseline, rank_metrics

__all__ = [
    "Decoded",
    "Decoding",
    "Embedding",
    "JointEmbedding",
    "Match",
    "alignment_metrics",
    "decode",
    "evaluate_links",
    "random_baseline",
    "rank_links",
    "rank_metrics",
]
