"""The faults that were planted can still be, and the record says that each was seen."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.emulation import library
from tests.emulation.faults import FAULTS, RECORD, SEEDS, SEEN, digest_of_sources, planted


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.kernel}: {fault.name}")
def test_a_fault_can_be_planted(fault) -> None:
    sound, faulty = library.sources(), planted(fault)
    changed = [name for name, text in sound.items() if faulty[name] != text]
    assert changed == [f"cuda/{fault.source}"]


def test_every_fault_was_seen_and_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = json.loads(RECORD.read_text())["rows"]
    assert [(row["kernel"], row["fault"]) for row in rows] == [(f.kernel, f.name) for f in FAULTS]
    for row in rows:
        assert len(row["seen"]) == len(SEEDS)
        assert set(row["seen"]) <= SEEN, row
    monkeypatch.syspath_prepend(str(library.ROOT / "scripts"))
    sys.modules.pop("render_faults", None)
    from render_faults import fault_table

    assert json.loads(RECORD.read_text()).get("sources") == digest_of_sources(), (
        "the record is of other sources; run python -m tests.emulation.faults"
    )
    assert fault_table() in (library.ROOT / "docs" / "gpu.md").read_text(), "run scripts/render_faults.py"


def test_a_record_is_of_names_and_contents(tmp_path: Path) -> None:
    for folder in ("csrc/cuda", "tests/emulation"):
        (tmp_path / folder).mkdir(parents=True)
    source, record = tmp_path / "csrc" / "cuda" / "a.cu", tmp_path / "tests" / "emulation" / RECORD.name
    digests = []
    for change in (
        lambda: source.write_text("one"),
        lambda: source.write_text("two"),
        lambda: source.rename(source.with_name("b.cu")),
        lambda: (tmp_path / "tests" / "emulation" / "emulator.cpp").write_text(""),
    ):
        change()
        digests.append(digest_of_sources(tmp_path))
    assert len(set(digests)) == 4
    record.write_text("{}")
    assert digest_of_sources(tmp_path) == digests[-1]
