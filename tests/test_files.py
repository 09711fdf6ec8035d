"""A file is there whole or not at all, whoever else writes it and however a write ends."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from loginmea_fast.files import left_behind, whole_file, write_whole


def test_a_file_has_the_mode_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", b"ours")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_what_a_killed_write_has_left_is_gone_with_the_next(tmp_path: Path) -> None:
    target = tmp_path / "a"
    with whole_file(target) as file:
        file.write(b"half")
        (killed,) = left_behind(tmp_path)
    killed.write_bytes(b"half")
    write_whole(target, b"whole")
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("a", b"whole")]


@pytest.mark.parametrize("overtaken", [True, False])
def test_of_two_that_write_at_once_the_later_one_stays_and_the_other_is_told(
    tmp_path: Path, overtaken: bool
) -> None:
    target = tmp_path / "a"
    first, other = whole_file(target), whole_file(target)
    first.__enter__().write(b"first")
    other.__enter__().write(b"other")
    if overtaken:
        other.__exit__(None, None, None)
    with pytest.raises(OSError, match="another process writes it too"):
        first.__exit__(None, None, None)
    if not overtaken:
        other.__exit__(None, None, None)
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("a", b"other")]
