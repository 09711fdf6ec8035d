"""What processes tell each other: the same answer, or the same error, in all of them, and no waiting for ever."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch

from loginmea_fast.errors import ConfigError, DataError, LoginMEAError
from loginmea_fast.parallel import ALONE, Shards, world
from tests.parallel.processes import answers, in_processes
from tests.training.synthetic import synthetic_pair


def test_a_process_that_nobody_started_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert world() is ALONE
    values = torch.ones(3)
    ALONE.sum_([values])
    assert values.tolist() == [1, 1, 1]
    assert ALONE.any(True, False) == [True, False]
    assert ALONE.together(lambda: 5) == 5
    assert ALONE.gather("a") == ["a"]
    assert ALONE.part(7) == slice(0, 7)


def told() -> tuple[object, ...]:
    there = world()
    values = torch.full((2,), float(there.rank + 1))
    counts = torch.tensor([there.rank + 1])
    there.sum_([values, counts])
    return (
        there.gather(there.rank),
        there.first(lambda: f"from {there.rank}"),
        there.any(there.rank == 1, False),
        values.tolist(),
        counts.tolist(),
        there.together(lambda: there.rank),
    )


def test_all_are_told_the_same() -> None:
    for rank, found in enumerate(in_processes(3, told)):
        assert found == ([0, 1, 2], "from 0", [True, False], [6.0, 6.0], [6], rank)


def refused(how: str) -> None:
    there = world()

    def refuse() -> None:
        if there.rank == (0 if how == "first" else 1):
            raise DataError("line 7 is cut short")

    if how == "together":
        there.together(refuse)
    elif how == "first":
        there.first(refuse)
    elif how == "agree":
        there.agree({"seed": there.rank, "version": 1})
    else:
        Shards(there, synthetic_pair(3).graph())


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("together", LoginMEAError, "line 7 is cut short"),
        ("first", DataError, "line 7 is cut short"),
        ("agree", ConfigError, "seed is 0 in process 0 and 1 in process 1"),
        (
            "many",
            ConfigError,
            "4 processes are too many for 6 entities, of which each needs two or more",
        ),
    ],
)
def test_what_one_refuses_all_refuse(how: str, kind: type[Exception], words: str) -> None:
    for error in answers(4 if how == "many" else 2, refused, how):
        assert isinstance(error, kind)
        assert words in str(error)


def waiting(how: str) -> float:
    there = world()
    there.gather(0)
    begun = time.monotonic()
    if there.rank == 1:
        if how == "dead":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(30)
    there.gather(1)
    return time.monotonic() - begun


@pytest.mark.parametrize("how", ["dead", "late"])
def test_nobody_waits_for_ever(how: str) -> None:
    begun = time.monotonic()
    left, _ = answers(2, waiting, how, seconds="3", expected=1)
    assert isinstance(left, LoginMEAError)
    assert "process 0 of 2 has lost the others" in str(left)
    assert time.monotonic() - begun < 20
