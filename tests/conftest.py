"""What every test gets: fixed seeds, honest skips, memory that shows when it was read before it was written."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

from tests.emulation import library as emulated_cuda
from tests.helpers import triton_interpreter

ROOT = Path(__file__).parents[1]

# Threads that wait by spinning make child processes many times slower where others want the cores too.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Two cores shared by a whole suite make single examples slow now and then; that is no failure. CI draws the same
# examples every time, so that what fails there fails at a desk too.
hypothesis.settings.register_profile("suite", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("suite")

if os.environ.get("TRITON_INTERPRET") == "1":
    triton_interpreter.repair()
if emulated_cuda.SEED in os.environ:
    emulated_cuda.install()

_outcomes: Counter[str] = Counter()  # of this session's tests, in whichever process they ran
_gpu_deselected = pytest.StashKey[int]()


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - third parties draw from it
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan(request: pytest.FixtureRequest) -> Iterator[None]:
    """In tests of operators and modules `torch.empty` is full of NaN, so a kernel that leaves a gap is caught."""
    if request.node.path.relative_to(ROOT / "tests").parts[0] not in ("ops", "nn"):
        yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The directory of the real data sets, or a skip that says where it was looked for."""
    root = Path(os.environ.get("LOGINMEA_DATA") or ROOT.parent / "shared" / "data")
    if not root.is_dir():
        pytest.skip(f"no data at {root}; set LOGINMEA_DATA to run this test")
    return root


@pytest.fixture(scope="session")
def dataset(data_root: Path) -> Callable[[str], Path]:
    """`dataset("dbp15k/zh_en")` is that data set's directory, or a skip."""

    def find(name: str) -> Path:
        if not (data_root / name).is_dir():
            pytest.skip(f"no {name} in {data_root}")
        return data_root / name

    return find


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a CUDA device GPU tests are deselected, which is not passing and not skipping.

    Files with slow tests come first, then those with most tests: at the end one process would wait for them. It needs
    `--no-loadscope-reorder`, or pytest-xdist goes by the number of tests alone.
    """
    if not torch.cuda.is_available():
        gpu = [item for item in items if item.get_closest_marker("gpu")]
        if gpu:
            config.hook.pytest_deselected(items=gpu)
            config.stash[_gpu_deselected] = len(gpu)
            items[:] = [item for item in items if not item.get_closest_marker("gpu")]
    tests = Counter(item.path for item in items)
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(
        key=lambda item: (
            item.path.name != "test_lanes.py",
            not slow[item.path],
            -tests[item.path],
            item.path,
        )
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Over the emulator a backend that refuses to serve is a failure, not a skip: nothing would have been shown."""
    report = yield
    emulated = emulated_cuda.SEED in os.environ
    if emulated and report.skipped and emulated_cuda.wrongly_refused(str(report.longrepr)):
        report.outcome = "failed"
        report.longrepr = f"the emulated backend must serve: {report.longrepr}"
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Counts how tests ended."""
    if report.when == "call" or not report.passed:
        _outcomes[report.outcome] += 1


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Tests over the emulator of which none has passed show nothing."""
    if emulated_cuda.SEED in os.environ and exitstatus == 0 and not _outcomes["passed"]:
        print("\nover the emulator no test has passed")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says how many GPU tests did not run."""
    count = terminalreporter.config.stash.get(_gpu_deselected, 0)
    if count:
        terminalreporter.write_line(
            f"{count} GPU tests deselected: this machine has no CUDA device", yellow=True
        )
