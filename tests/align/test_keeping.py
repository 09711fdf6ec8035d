"""An alignment that is stopped while it trains goes on with the same call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import loginmea_fast as lf
from loginmea_fast.data import AlignmentPair
from loginmea_fast.errors import ConfigError
from loginmea_fast.runs.aligning import methods
from tests.training.synthetic import synthetic_pair

SMALL: dict[str, Any] = {
    "epochs": 2,
    "hidden_dim": 8,
    "rounds": 0,
    "backend": "reference",
    "propagation_width": 32,
    "progress": False,
}


@pytest.fixture(scope="module")
def pair() -> AlignmentPair:
    return synthetic_pair(80, degree=5)


def test_it_goes_on_where_it_was_stopped(
    pair: AlignmentPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, trained = tmp_path / "training", []
    plain = methods.fit

    def stopped(*args: Any, **kwargs: Any) -> Any:
        if trained:
            raise KeyboardInterrupt
        trained.append(args[2])
        return plain(*args, **kwargs)

    monkeypatch.setattr(methods, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        lf.align(pair, seeds=pair.links[:50], keep=keep, **SMALL)
    assert trained == [keep / "1"]
    before = (keep / "1" / "metrics.jsonl").read_text()
    monkeypatch.setattr(methods, "fit", plain)
    found = lf.align(pair, seeds=pair.links[:50], keep=keep, **SMALL)
    epochs = [line for line in (keep / "1" / "metrics.jsonl").read_text().splitlines() if '"epoch"' in line]
    assert len(epochs) <= len(before.splitlines()) + 2, "no epoch is trained twice"
    whole = lf.align(pair, seeds=pair.links[:50], **SMALL)
    assert torch.equal(found.left, whole.left)
    assert torch.equal(found.confidence, whole.confidence)


def test_trainings_of_other_inputs_are_refused(pair: AlignmentPair, tmp_path: Path) -> None:
    keep = tmp_path / "training"
    lf.align(pair, seeds=pair.links[:50], keep=keep, **SMALL)
    with pytest.raises(ConfigError, match="was trained with other known pairs or decisions; give"):
        lf.align(pair, seeds=pair.links[:51], keep=keep, **SMALL)
    with pytest.raises(ConfigError, match="was trained with epochs = 2; give"):
        lf.align(pair, seeds=pair.links[:50], keep=keep, **(SMALL | {"epochs": 3}))
    few = pair.with_features({"relation": pair.features["relation"]})
    with pytest.raises(ConfigError, match="was trained with other modalities; give"):
        lf.align(few, seeds=pair.links[:50], keep=keep, **SMALL)
    found = lf.align(pair, seeds=pair.links[:51], keep=keep, overwrite=True, **SMALL)
    assert len(found.known) == 51


def test_matches_of_another_decoder_need_no_training(pair: AlignmentPair, tmp_path: Path) -> None:
    keep = tmp_path / "training"
    lf.align(pair, seeds=pair.links[:50], keep=keep, **SMALL)
    before = {file: file.stat().st_mtime_ns for file in keep.rglob("last.safetensors")}
    lf.align(pair, seeds=pair.links[:50], keep=keep, decoder="mutual", precision=0.8, **SMALL)
    assert before
    assert before == {file: file.stat().st_mtime_ns for file in keep.rglob("last.safetensors")}
