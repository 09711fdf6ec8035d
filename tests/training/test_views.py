"""Steps over what a batch needs against steps over the whole graph, on real data with the default recipe."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from loginmea_fast import data, graph
from loginmea_fast.runs.problem import assemble, build_model
from loginmea_fast.training import Config
from loginmea_fast.training.loop import Trainer

DATA = Path(os.environ.get("LOGINMEA_DATA") or "../shared/data")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dbp15k/zh_en", "mmkb/FB15K_DB15K"])
def test_five_steps_end_at_the_same_parameters(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (DATA / name).is_dir():
        pytest.skip(f"no data at {DATA / name}")
    pair = data.load(DATA / name, modalities=["relation", "attribute"])
    config = Config()
    problem = assemble(pair, config, None)

    def steps(most: float) -> tuple[dict[str, Tensor], list[float]]:
        monkeypatch.setattr(graph, "_MOST", most)
        torch.manual_seed(0)
        trainer = Trainer(problem, build_model(problem, config), config)
        losses = [trainer._step(0, update % 2).loss.item() for update in range(5)]
        return {name: p.detach() for name, p in trainer.model.named_parameters()}, losses

    (whole, losses), (some, same) = steps(0.0), steps(0.5)
    assert same == pytest.approx(losses, rel=1e-5)
    assert losses[4] < losses[1]
    # RMSprop divides by the gradient's size, and rounding of the smallest gradients by next to nothing.
    errors = {name: ((some[name] - truth).norm() / truth.norm()).item() for name, truth in whole.items()}
    assert 0 < max(errors.values()) < 5e-5, errors
