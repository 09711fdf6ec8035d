"""What processes tell each other: the same answer, or the same error, in all of them, and no waiting for ever."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch
import torch.distributed as dist

from loginmea_fast.errors import ConfigError, DataError, LoginMEAError
from loginmea_fast.parallel import ALONE, Shards, World, shards, world
from loginmea_fast.runs.dividing import check_divisible
from loginmea_fast.training.config import Config
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
    elif how == "one more":
        there.agree({"version": 1} | ({"the data (ids)": 5} if there.rank else {}))
    else:
        Shards(there, synthetic_pair(3).graph())


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("together", LoginMEAError, "line 7 is cut short"),
        ("first", DataError, "line 7 is cut short"),
        ("agree", ConfigError, "seed is 0 in process 0 and 1 in process 1"),
        ("one more", ConfigError, "the data (ids) is absent in process 0 and 5 in process 1"),
        (
            "many",
            ConfigError,
            "4 processes cannot divide 6 entities, each in turn 2 of them: none are left for the last; start 3",
        ),
    ],
)
def test_what_one_refuses_all_refuse(how: str, kind: type[Exception], words: str) -> None:
    for error in answers(4 if how == "many" else 2, refused, how):
        assert isinstance(error, kind)
        assert words in str(error)


def failed(how: str, kind: type[Exception]) -> None:
    there = world()

    def fail() -> None:
        if there.rank == 0:
            raise kind("no room\nfor 7 GB")

    getattr(there, how)(fail)


@pytest.mark.parametrize("kind", [OSError, MemoryError, RuntimeError])
@pytest.mark.parametrize("how", ["together", "first"])
def test_what_fails_in_one_is_told_to_all(how: str, kind: type[Exception]) -> None:
    begun = time.monotonic()
    here, there = answers(2, failed, how, kind)
    assert type(here) is kind
    assert str(here) == "no room\nfor 7 GB"
    assert type(there) is LoginMEAError
    assert str(there) == f"process 0 of 2: {kind.__name__}: no room"
    assert time.monotonic() - begun < 40  # of 60 that they would wait


def worked(seconds: float) -> tuple[str, float]:
    there = world()
    there.gather(0)
    begun = time.monotonic()

    def work() -> str:
        time.sleep(seconds)
        return "proposed"

    return there.first(work), time.monotonic() - begun


def test_what_process_0_works_out_may_take_longer_than_others_wait() -> None:
    for found, seconds in answers(2, worked, 6.0, seconds="3"):
        assert found == "proposed"
        assert seconds > 5


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


def beginning(how: str) -> tuple[str, float]:
    """Process 0 begins late with what the others wait for, or dies over it."""
    there = world()
    there.gather(0)
    begun = time.monotonic()
    if there.leads and how == "late":
        time.sleep(10)
    try:
        return there.first(lambda: os.kill(os.getpid(), signal.SIGKILL)), 0.0
    except LoginMEAError as error:
        return str(error), time.monotonic() - begun


@pytest.mark.parametrize("how", ["dead", "late"])
def test_nobody_waits_for_a_process_0_that_is_gone_or_does_not_begin(how: str) -> None:
    _, (told, seconds) = answers(2, beginning, how, seconds="3")
    assert "process 1 of 2 has lost the others" in told
    assert seconds < 8


@pytest.mark.parametrize("how", ["dead", "late"])
def test_nobody_waits_for_ever(how: str) -> None:
    begun = time.monotonic()
    left, _ = answers(2, waiting, how, seconds="3", expected=1)
    assert isinstance(left, LoginMEAError)
    assert "process 0 of 2 has lost the others" in str(left)
    assert time.monotonic() - begun < 20


ENVIRONMENT = {
    "RANK": "0",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
    "LOCAL_RANK": "0",
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"RANK": None}, "RANK is not set, which takes a whole number from 0 to 1; start the processes with torchrun"),
        ({"WORLD_SIZE": None}, "WORLD_SIZE is not set, which takes a whole number of 1 or more"),
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE is 'x', which takes a whole number of 1 or more"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"RANK": "2"}, "RANK is '2', which takes a whole number from 0 to 1"),
        ({"RANK": "-1"}, "RANK is '-1'"),
        ({"LOCAL_RANK": "a"}, "LOCAL_RANK is 'a'"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT is 'http', which takes a whole number from 1 to 65535"),
        *(
            ({"LOGINMEA_TIMEOUT": value}, "LOGINMEA_TIMEOUT must be a number of seconds from 1 to 31536000; got '")
            for value in ("inf", "nan", "-1", "0", "ten", "1e30")
        ),
    ],
)  # fmt: skip
def test_an_environment_that_is_not_torchruns_is_told(
    change: dict[str, str | None], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (ENVIRONMENT | {"LOGINMEA_TIMEOUT": "60"} | change).items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as told:
        world()
    assert words in str(told.value)


def joined_by_script() -> tuple[int, int, str]:
    dist.init_process_group("gloo")
    group = dist.group.WORLD
    there = world()
    assert dist.group.WORLD is group
    return there.rank, there.size, there.first(lambda: f"from {there.rank}")


def test_the_process_group_of_a_script_is_used() -> None:
    assert answers(2, joined_by_script) == [(0, 2, "from 0"), (1, 2, "from 0")]


def test_a_process_group_that_cannot_serve_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "is_initialized": True,
        "get_world_size": 2,
        "get_backend_config": "cuda:nccl",
    }.items():
        monkeypatch.setattr(dist, name, lambda value=value: value)
    with pytest.raises(ConfigError, match=r"no backend for CPUs \(cuda:nccl\).*give init_process_group"):
        world()


@pytest.mark.parametrize(("processes", "fewer"), [(5, 4), (7, 6), (9, 8), (16, 8)])
def test_the_number_of_processes_that_a_refusal_names_works(processes: int, fewer: int) -> None:
    graph = synthetic_pair(8).graph()
    assert graph.num_entities == 16
    with pytest.raises(ConfigError, match=f"start {fewer}$"):
        Shards(World(0, processes), graph)
    assert shards._divides(16, fewer)


def test_one_part_is_as_good_as_none() -> None:
    keys = {"propagation": "none", "rounds": 0}
    check_divisible(Config(partitions=1, **keys), World(0, 2))
    with pytest.raises(ConfigError, match="partitions=2: parts are cut out"):
        check_divisible(Config(partitions=2, **keys), World(0, 2))
