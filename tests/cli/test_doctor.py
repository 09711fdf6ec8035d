from __future__ import annotations

import re

import pytest

from loginmea_fast import ops
from loginmea_fast.cli import selfcheck
from loginmea_fast.errors import BuildError

CHECKED = {*ops.__all__, "modality_scale"}


@pytest.fixture(scope="module")
def cases() -> list[selfcheck.Case]:
    return [case for _, _, case in selfcheck._cases(["cpu"])]


def test_every_public_operator_is_checked(cases) -> None:
    assert {case.op for case in cases} == CHECKED


def test_json_is_all_there_is_on_stdout(call) -> None:
    done = call("doctor", "--no-measure", "--json")
    report = done.json
    assert done.status == 0, done.err
    assert report["passed"]
    assert {check["op"] for check in report["checks"]} == CHECKED
    assert {check["dtype"] for check in report["checks"]} == {"float32", "bfloat16"}
    assert all(check["error"] <= check["bound"] for check in report["checks"])
    assert {entry["op"] for entry in report["operators"]} == CHECKED
    assert report["versions"]["torch"]
    assert report["native"]["cpu"]["state"] in (
        "loaded",
        "not built",
        "cached",
        "ahead of time",
        "unavailable",
    )
    assert report["cache"]["bytes"] >= report["cache"]["library_bytes"]
    assert report["ceilings"] is None
    assert report["check_seconds"] >= sum(check["seconds"] for check in report["checks"]) > 0
    assert re.search(
        rf"{2 * len(CHECKED)} of {2 * len(CHECKED)} checks passed in [1-9][0-9.]* m?s\n", done.err
    )


def test_a_backend_that_serves_and_why_another_does_not(call, monkeypatch) -> None:
    monkeypatch.setenv("LOGINMEA_BACKEND", "reference")
    report = call("doctor", "--no-measure", "--json").json
    assert {entry["backend"] for entry in report["operators"]} == {"reference"}
    for entry in report["operators"]:
        if entry["device"] == "cpu" and entry["op"] not in ("neighbor_mean", "relation_reflectors"):
            assert entry["others"]["cuda"]
    assert report["environment"]["LOGINMEA_BACKEND"] == "reference"


def test_without_a_compiler_it_says_so_and_the_formula_serves(call, monkeypatch) -> None:
    def load(device):
        raise BuildError("no C++ compiler found; install g++")

    monkeypatch.setattr("loginmea_fast.native.load", load)
    done = call("doctor", "--json")
    assert done.status == 0
    for entry in done.json["operators"]:
        if entry["device"] == "cpu":
            assert entry["backend"] == "reference"
            assert entry["others"]["cpu"].startswith("no C++ compiler found")
    assert done.json["ceilings"] == {"reason": "no C++ compiler found; install g++"}
    assert "not measured, no C++ compiler found" in done.err


def test_ceilings_are_measured(call) -> None:
    ceilings = call("doctor", "--json").json["ceilings"]
    if "reason" in ceilings:
        pytest.skip(ceilings["reason"])
    assert ceilings["copy_bytes_per_second"] > 1e8
    assert ceilings["gather_bytes_per_second"] > 1e7
    assert ceilings["float32_operations_per_second"] > 1e8


def test_a_wrong_operator_fails_the_check(call, monkeypatch) -> None:
    right = ops.contrastive_loss

    def wrong(left, right_, temperature, bidirectional=False, backend="auto"):
        loss = right(left, right_, temperature, bidirectional=bidirectional, backend=backend)
        return loss * 1.01 if backend == "auto" and left.dtype.itemsize == 4 else loss

    monkeypatch.setattr(ops, "contrastive_loss", wrong)
    done = call("doctor", "--no-measure")
    assert done.status == 1
    failed = [line for line in done.out.splitlines() if line.strip().startswith("FAIL")]
    assert len(failed) == 1
    assert "contrastive_loss on cpu in float32" in failed[0]
    assert "error 1.0e-02, bound 1e-04" in failed[0]


def test_an_operator_that_raises_fails_the_check_alone(call, monkeypatch) -> None:
    def broken(*args, backend, **options):
        raise RuntimeError("undefined symbol: search_norms")

    monkeypatch.setattr(ops, "mutual_nearest", broken)
    done = call("doctor", "--no-measure")
    assert done.status == 1
    failed = [line for line in done.out.splitlines() if line.strip().startswith("FAIL")]
    assert len(failed) == 2
    assert all("mutual_nearest" in line and "undefined symbol: search_norms" in line for line in failed)
    assert f"{len(CHECKED) * 2 - 2} of {len(CHECKED) * 2} checks passed" in done.out
