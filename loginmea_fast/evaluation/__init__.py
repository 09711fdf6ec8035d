"""Evaluation: metrics of ranks, of links and of run directories, and decoding of embeddings into named pairs."""

from loginmea_fast.evaluation.decoding import Decoded, Decoding, Match, decode
from loginmea_fast.evaluation.embedding import joint_embedding
from loginmea_fast.evaluation.links import evaluate_links, rank_links
from loginmea_fast.evaluation.metrics import alignment_metrics, random_baseline, rank_metrics
from loginmea_fast.evaluation.run import LoadedRun, evaluate, load_run

__all__ = [
    "Decoded",
    "Decoding",
    "LoadedRun",
    "Match",
    "alignment_metrics",
    "decode",
    "evaluate",
    "evaluate_links",
    "joint_embedding",
    "load_run",
    "random_baseline",
    "rank_links",
    "rank_metrics",
]
