"""What a configuration asks to be measured on the test links, at the end of training and of a run read back."""

from __future__ import annotations

from typing import Any

from loginmea_fast.evaluation.embedding import Embedding
from loginmea_fast.evaluation.links import evaluate_links
from loginmea_fast.training.config import Config
from loginmea_fast.training.late import LateEmbedding
from loginmea_fast.training.protocols import Problem

__all__ = ["measure_test_links"]


def measure_test_links(
    embedding: Embedding, problem: Problem, config: Config, breakdown: bool = True
) -> dict[str, Any]:
    """Metrics of an embedding on the test links.

    Args:
        embedding: of the entities.
        problem: whose test links are ranked.
        config: among what, and by which decoder.
        breakdown: with groups of links and what the decoder makes of them; False for the ranks alone.

    Returns:
        As `evaluation.evaluate_links`, with `beside` where labels or names stand beside the model. Empty where every
        known link is a seed, so that there is none to test.
    """
    if not len(problem.split.test):
        return {}
    metrics = evaluate_links(
        embedding,
        problem.pair,
        problem.split.test,
        csls_k=config.csls_k,
        candidates=config.candidates,
        backend=config.backend,
        breakdown=breakdown,
        decoder=config.decoder if breakdown else "csls",
        decoder_k=config.decoder_k,
    )
    if isinstance(embedding, LateEmbedding):
        metrics["beside"] = embedding.summary()
    return metrics
