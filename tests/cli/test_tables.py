from __future__ import annotations

import pytest
import torch

from loginmea_fast.cli.tables import describe_metrics, described_epoch, duration
from loginmea_fast.evaluation.metrics import alignment_metrics
from loginmea_fast.evaluation.plans import decoder_metrics


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00312, "3.1 ms"),
        (0.0384, "38 ms"),
        (0.9949, "995 ms"),
        (0.996, "1.0 s"),
        (1.44, "1.4 s"),
        (9.96, "10 s"),
        (127.3, "127 s"),
    ],
)
def test_durations_have_digits_that_mean_something(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_what_decoders_made_is_told() -> None:
    left = torch.eye(6) + 0.1
    pairs = torch.arange(6)[:, None].expand(-1, 2)
    metrics = {"protocol": "test", **alignment_metrics(left, left, csls_k=2)}
    metrics["decoders"] = decoder_metrics(["mutual", "sinkhorn"], left, left, pairs, 3, 2)
    metrics["decoders"]["sinkhorn"] |= {"converged": False, "iterations": 7}
    text = describe_metrics(metrics)
    assert "sinkhorn, left to right" in text
    assert "mutual, left to right" not in text, "it ranks nothing"
    assert ["mutual", "6", "1.000", "1.000", "1.000"] in [line.split() for line in text.splitlines()]
    assert "sinkhorn did not converge in 7 iterations; its last iterate was taken" in text


def test_what_stands_beside_the_model_is_told() -> None:
    left = torch.eye(6) + 0.1
    metrics = {"protocol": "test", **alignment_metrics(left, left, csls_k=2)}
    assert "propagated" not in describe_metrics(metrics)
    metrics["beside"] = {
        "labels": {"weight": 0.35, "links": 4275, "columns": 1280},
        "name_tfidf": {"weight": 0.5, "columns": 1024},
    }
    told = "beside the model stand labels of 4,275 links, propagated, with weight 0.35"
    assert f"{told} and name_tfidf with weight 0.5" in describe_metrics(metrics)
    metrics["beside"]["joined"] = {"weight": 0.7, "links": 3170, "columns": 256}
    told += ", name_tfidf with weight 0.5 and own labels of 3,170 that joined with weight 0.7"
    assert told in describe_metrics(metrics)


def test_a_run_without_test_links_says_so() -> None:
    assert "every known link was a seed" in describe_metrics({})


@pytest.mark.parametrize(
    ("epochs", "told"),
    [
        ((5, 5, 10), "epoch 5 of 10, the best"),
        ((2, None, 2), "epoch 2 of 2, the last: nothing was validated"),
        ((10, 5), "epoch 10; the best is 5"),
    ],
)
def test_no_epoch_is_called_the_best_where_nothing_was_validated(epochs, told) -> None:
    assert described_epoch(*epochs) == told
