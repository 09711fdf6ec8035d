"""The plan of memory: within a fifth of what is measured, and an error that says what helps where it does not fit."""

from __future__ import annotations

import json
import mmap
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import loginmea_fast as lf
from loginmea_fast import machine
from loginmea_fast.data import Synthetic, generate
from loginmea_fast.errors import ConfigError
from loginmea_fast.runs.problem import sketch_model
from loginmea_fast.training import plan as planning
from loginmea_fast.training.memory import available_memory, measure_peak_memory, resident_memory

CPU = torch.device("cpu")

MEASURE = """
import json, sys
import loginmea_fast as lf
from loginmea_fast.training import Callback
from loginmea_fast.training.memory import measure_peak_memory

import torch

config = lf.Config.build(path=sys.argv[1], seed_ratio=0.3, epochs=2, rounds=0, threads=1).override(sys.argv[2:])
pair = lf.runs.load_pair(config)
lf.runs.prepare_kernels(config)
with measure_peak_memory(torch.device("cpu")) as memory:
    result = lf.fit(pair, config, progress=False)
print(json.dumps([result.plan.peak, memory.peak]))
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "pair"
    generate(folder, Synthetic(20_000, triples=4.0, relations=500, vectors={"image": 64}))
    return folder


@pytest.mark.parametrize(
    "keys",
    [
        ["hidden_dim=128"],
        ["hidden_dim=64", "propagation=none", "optimizer=adamw", "candidates=all"],
        ["preset=loginmea", "hidden_dim=128", "epochs=2"],
    ],
)
def test_within_a_fifth_of_what_is_measured(keys: list[str], directory: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(directory), *keys], capture_output=True, text=True, check=True
    )
    planned, measured = json.loads(done.stdout.splitlines()[-1])
    assert 0.8 < planned / measured < 1.2, (
        f"{planned / 2**20:.0f} MiB planned, {measured / 2**20:.0f} measured"
    )


def test_beyond_the_machine_the_error_names_what_makes_it_fit(
    directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = lf.Config.build(path=str(directory), hidden_dim=512, optimizer="adamw", propagation="none")
    pair = lf.runs.load_pair(config)
    monkeypatch.setattr(planning, "resident_memory", lambda _: 10**9)  # told, and never the same twice
    whole = lf.runs.plan(pair, config).further
    monkeypatch.setattr(planning, "available_memory", lambda _: int(0.75 * whole))
    with pytest.raises(
        ConfigError, match=r"training needs .* are free .* one of these makes it fit:"
    ) as caught:
        lf.fit(pair, config, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    lines = str(caught.value).splitlines()
    assert 2 <= len(lines) <= 10
    for line in lines[1:]:
        key, value = re.match(r"  (\w+)=(\w+): ", line).groups()
        other = config.override([f"{key}={value}"])
        told = lf.runs.plan(pair, other)
        assert told.further <= 0.75 * whole
        assert not told.advice
    told = lf.runs.plan(pair, config).describe()
    assert f"it does not fit: {lines[0]}" in told
    assert told.splitlines()[-len(lines) + 1 :] == lines[1:]
    monkeypatch.setattr(planning, "available_memory", lambda _: 1000)
    with pytest.raises(ConfigError, match="no switch alone makes it fit"):
        lf.fit(pair, config, progress=False)


def test_a_machine_that_does_not_say_what_is_free_is_trusted(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = lf.Config.build(path=str(directory))
    problem = lf.runs.assemble(lf.runs.load_pair(config), config)
    monkeypatch.setattr(planning, "available_memory", lambda _: None)
    assert planning.check_plan(problem, config, lambda c: sketch_model(problem, c)).peak > 0


@pytest.mark.parametrize(
    ("limit", "expected"), [("max\n", None), ("1000\n", 1000 - 700 + 300 - 50), ("100\n", 0), ("", None)]
)
def test_the_limit_of_a_container(limit: str, expected: int | None, tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 400\nfile 300\nshmem 50\n")
    assert machine._free_in_group(tmp_path) == expected
    assert machine._free_in_group(tmp_path / "none") is None


def test_the_limit_of_the_process() -> None:
    """`ulimit -v`: what is left of it, and not what the machine has."""
    import resource

    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    assert machine._free_in_process() is None or limits[0] != resource.RLIM_INFINITY
    try:
        resource.setrlimit(resource.RLIMIT_AS, (taken + 300_000_000, limits[1]))
        assert 0 < machine.free_memory() <= 300_000_000
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_files_in_memory_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("disk / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\ndisk /tmp/on ext4 rw 0 0\n")
    assert [machine.is_memory(place, mounts) for place in ("/tmp/a", "/tmp/on/b", "/home", "/tmp")] == [
        True,
        False,
        False,
        True,
    ]
    mounts.write_text("tmpfs /tmp tmpfs rw 0 0\ndisk /tmp ext4 rw 0 0\n")
    assert not machine.is_memory("/tmp/a", mounts)
    assert not machine.is_memory("/tmp/a", tmp_path / "none")
    monkeypatch.setattr(planning, "IN_MEMORY", 10)
    for held in (True, False):
        monkeypatch.setattr(planning, "is_memory", lambda _, held=held: held)
        assert [planning._kept(size) for size in (9, 11)] == [9, 11 * held]


def fresh_ones(nbytes: int) -> torch.Tensor:
    # Pages of their own: the allocator may serve a tensor from what earlier tests have freed, which was resident.
    return torch.frombuffer(mmap.mmap(-1, nbytes), dtype=torch.uint8).fill_(1)


def test_memory_of_the_process() -> None:
    before = resident_memory(CPU)
    kept = fresh_ones(1 << 26)
    assert kept.nbytes * 0.9 < resident_memory(CPU) - before < kept.nbytes * 1.5
    free = available_memory(CPU)
    assert free is None or free > 0
    with measure_peak_memory(CPU) as measured:
        fresh_ones(1 << 26)
    assert measured.peak - measured.before > kept.nbytes * 0.9
