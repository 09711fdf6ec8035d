"""A key that changes nothing is said to; nothing is said of the others."""

from __future__ import annotations

import pytest
import torch

from loginmea_fast.training.bootstrapping import Bootstrapping
from loginmea_fast.training.config import Config
from loginmea_fast.training.effect import first_join, without_effect


@pytest.mark.parametrize(
    ("values", "modalities", "valid", "said"),
    [
        ({}, 2, 9, ""),
        ({"compat": "authors", "preset": "authors"}, 2, 0, ""),
        ({"bootstrap": True, "epochs": 41}, 2, 9, ""),
        (
            {"bootstrap": True, "epochs": 40},
            2,
            9,
            "bootstrap changes nothing: its first links join after epoch 40",
        ),
        ({"bootstrap": True, "epochs": 60}, 2, 9, "the last window of bootstrapping changes nothing"),
        (
            {"bootstrap_every": 3, "bootstrap_window": 4},
            2,
            9,
            "bootstrap_every, bootstrap_window change nothing",
        ),
        ({"patience": 3}, 2, 0, "patience changes nothing: there are no validation links"),
        ({"patience": 3}, 2, 9, ""),
        ({"patience": 12}, 2, 9, "patience changes nothing: training ends before"),
        (
            {"patience": 12, "rounds": 2},
            2,
            9,
            "patience changes nothing: a round ends before as many validations",
        ),
        (
            {"bootstrap": True, "epochs": 40, "rounds": 1},
            2,
            9,
            "its first links join after epoch 40 and a round ends after 40",
        ),
        (
            {"share_seeds": True},
            2,
            9,
            "share_seeds changes nothing: an epoch is one update, which tells all 300",
        ),
        ({"share_seeds": True, "updates": 1}, 2, 9, "share_seeds changes nothing: an epoch is one update"),
        ({"share_seeds": True, "updates": 1, "batch_size": 100}, 2, 9, ""),
        ({"share_seeds": True, "updates": 5, "use_graph_encoder": False}, 2, 9, "use_graph_encoder is off"),
        ({"preset": "default", "updates": 0}, 2, 9, "share_seeds changes nothing"),
        ({"warmup_epochs": 61}, 2, 9, "warmup_epochs changes nothing"),
        ({"decoder_k": 7}, 2, 9, "decoder_k changes nothing"),
        ({"decoder_k": 7, "decoder": "sinkhorn"}, 2, 9, ""),
        (
            {"hard_scale": 9.0, "hard_samples": 5},
            2,
            9,
            "hard_scale, hard_samples change nothing: hard_sample",
        ),
        ({"hard_samples": 5, "objectives": ("contrastive", "hard_sample:0")}, 2, 9, "hard_samples changes"),
        ({"hard_scale": 9.0, "objectives": ("hard_sample",)}, 2, 9, ""),
        ({"temperature": 0.2, "objectives": ("hard_sample",)}, 2, 9, "temperature changes nothing"),
        ({"temperature": 0.2, "objectives": ("hard_sample", "contrastive")}, 2, 9, ""),
        ({"propagation_width": 64}, 2, 9, "propagation_width changes nothing: propagation is none"),
        ({"propagation_width": 64, "propagation": "late"}, 2, 9, ""),
        ({"rank": 4}, 2, 9, ""),
        ({"rank": 4}, 0, 9, "rank changes nothing: the model has no modalities"),
        ({"rank": 4, "use_low_rank": False}, 2, 9, "rank changes nothing: use_low_rank is off"),
        ({"use_low_rank": False, "use_local_fusion": False}, 2, 9, "use_low_rank changes nothing"),
        (
            {"depth": 3, "use_graph_encoder": False, "use_global_aggregation": False},
            2,
            9,
            "depth changes nothing",
        ),
    ],
)
def test_what_changes_nothing_is_said(values, modalities, valid, said) -> None:
    found = list(without_effect(Config(**{"preset": "loginmea", **values}), modalities, 300, valid))
    assert len(found) == bool(said)
    assert said in "".join(found)


@pytest.mark.parametrize("compat", [None, "authors"])
@pytest.mark.parametrize(
    ("start", "every", "window"), [(20, 2, 10), (0, 1, 1), (7, 3, 2), (50, 5, 10), (3, 2, 4)]
)
def test_the_first_links_join_when_it_is_said(compat, start, every, window) -> None:
    config = Config(
        bootstrap=True,
        bootstrap_start=start,
        bootstrap_every=every,
        bootstrap_window=window,
        rounds=0,
        compat=compat,
    )
    entities, nothing = torch.arange(4), torch.empty(0, 2, dtype=torch.int64)
    rounds = Bootstrapping(config, entities, entities + 4, torch.tensor([[0, 4]]), nothing)
    joined = [
        epoch + 1
        for epoch in range(300)
        if rounds.due(epoch) and rounds.round(epoch, lambda left, right: torch.tensor([[0, 0]]))
    ]
    assert joined[0] == first_join(config)
