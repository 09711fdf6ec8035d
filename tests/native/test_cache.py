"""The cache of native libraries under attack. Every load happens in a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loginmea_fast.locks import Taken, locked
from loginmea_fast.native import build, cache, toolchain

from .conftest import Workshop


@contextlib.contextmanager
def _group_of(process: subprocess.Popen[str], alone: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Whatever the process started ends with the test."""
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill() if alone else os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def test_first_use_builds_and_says_so_later_uses_are_silent(workshop: Workshop) -> None:
    out, err = workshop.run()
    assert out == "42"
    assert err.count("compiling loginmea_cpu") == 1
    assert err.rstrip().endswith(" s")
    assert workshop.run() == ("42", "")


def test_changed_source_is_another_library_and_compiles_only_what_changed(workshop: Workshop) -> None:
    workshop.run()
    (objects,) = {path.parent for path in workshop.cache.glob("trees/*/build/**/bindings_cpu.cpp.o")}
    kept = (objects / "bindings_cpu.cpp.o").stat().st_mtime_ns
    workshop.set_answer(43)
    assert workshop.run()[0] == "43"
    assert (objects / "bindings_cpu.cpp.o").stat().st_mtime_ns == kept
    assert len(workshop.entries()) == 2
    workshop.set_answer(42)
    assert workshop.run() == ("42", "")


def test_a_source_with_an_old_time_stamp_is_compiled_all_the_same(workshop: Workshop) -> None:
    workshop.run()
    os.utime(workshop.set_answer(43), (1e9, 1e9))
    assert workshop.run()[0] == "43"


@pytest.mark.parametrize(
    ("name", "value"), [("CXXFLAGS", "-DNOTHING"), ("LOGINMEA_MARCH", "x86-64"), ("CXX", "/usr/bin/env c++")]
)
def test_flags_and_compiler_are_part_of_the_key(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    before = toolchain.find("cpu")
    assert toolchain.find("cpu").digest == before.digest
    monkeypatch.setenv(name, value)
    assert toolchain.find("cpu").digest != before.digest


def test_a_moved_cache_still_builds(workshop: Workshop) -> None:
    workshop.run()
    workshop.cache.rename(workshop.root / "elsewhere")
    workshop.set_answer(43)
    assert workshop.run(LOGINMEA_CACHE=str(workshop.root / "elsewhere"))[0] == "43"


def test_a_killed_build_holds_nothing_up(workshop: Workshop, slow_compiler: Callable[[], None]) -> None:
    with _group_of(workshop.start()) as owner:
        _wait_for(workshop.root / "started")
        os.kill(owner.pid, signal.SIGKILL)  # its compiler lives on, and goes on to write into its tree
        owner.wait()
        assert not workshop.entries()
        slow_compiler()
        began = time.monotonic()
        out, err = workshop.run()
        assert out == "42"
        assert "compiling" in err
        assert time.monotonic() - began < 30
    assert workshop.run() == ("42", "")


def test_four_at_once_build_once(workshop: Workshop) -> None:
    processes = [workshop.start() for _ in range(4)]
    results = [process.communicate(timeout=120) for process in processes]
    assert [out.strip() for out, _ in results] == ["42"] * 4
    assert sum(err.count("compiling") for _, err in results) == 1
    assert len(workshop.entries()) == 1


def _truncate(entry: Path) -> None:
    library = entry / "loginmea_cpu.so"
    os.truncate(library, library.stat().st_size // 2)


def _empty(entry: Path) -> None:
    os.truncate(entry / "loginmea_cpu.so", 0)


def _overwrite(entry: Path) -> None:
    library = entry / "loginmea_cpu.so"
    library.write_bytes(os.urandom(library.stat().st_size))


def _lose_library(entry: Path) -> None:
    (entry / "loginmea_cpu.so").unlink()


def _lose_key(entry: Path) -> None:
    (entry / "key.json").write_text("{")


@pytest.mark.hostile("native cache")
@pytest.mark.parametrize("damage", [_truncate, _empty, _overwrite, _lose_library, _lose_key])
def test_a_corrupt_entry_is_built_again(built: Workshop, damage: Callable[[Path], None]) -> None:
    (entry,) = built.entries()
    damage(entry)
    out, err = built.run()
    assert out == "42"
    assert err.count("is corrupt") == 1
    assert cache.find(entry, "loginmea_cpu") == entry / "loginmea_cpu.so"


def test_a_cache_that_cannot_be_written_is_stood_in_for(workshop: Workshop) -> None:
    workshop.cache.write_text(
        "a file where the directory should be"
    )  # stops root too, which a mode would not
    temporary = workshop.root / "tmp"
    temporary.mkdir()
    out, err = workshop.run(TMPDIR=str(temporary))
    assert out == "42"
    assert err.count("RuntimeWarning") == 1
    assert str(workshop.cache) in err
    assert "set LOGINMEA_CACHE" in err
    out, err = workshop.run(TMPDIR=str(temporary))
    assert (out, err) == ("42", "")


@pytest.mark.hostile("native cache")
def test_a_stand_in_that_others_can_write_to_is_not_trusted(workshop: Workshop) -> None:
    workshop.cache.write_text("")
    temporary = workshop.root / "tmp"
    standin = temporary / f"loginmea_fast-{os.getuid()}"
    standin.mkdir(parents=True)
    standin.chmod(0o777)
    code = "try: loader.load('cpu')\nexcept Exception as error: print(type(error).__name__, error)"
    out, _ = workshop.run(code, TMPDIR=str(temporary))
    assert out.startswith("BuildError")
    assert "cannot be written" in out
    assert "set LOGINMEA_CACHE" in out


def test_old_entries_are_dropped(workshop: Workshop) -> None:
    workshop.cache.mkdir()
    for age in range(20):
        stale = workshop.cache / f"cpu-{age:020d}"
        stale.mkdir()
        os.utime(stale, (1e9 - age, 1e9 - age))
    assert workshop.run()[0] == "42"
    left = {path.name for path in workshop.cache.glob("cpu-*") if path.is_dir()}
    assert len(left) == 12
    assert workshop.entries()[0].name in left
    assert f"cpu-{19:020d}" not in left


def test_an_ahead_of_time_library_serves_without_a_compiler_until_the_sources_change(
    workshop: Workshop,
) -> None:
    tools = toolchain.find("cpu")
    made = workshop.root / "made"
    subprocess.run(build.configure(tools, workshop.sources, made), check=True, capture_output=True)
    subprocess.run([tools.cmake, "--build", made], check=True, capture_output=True)
    subprocess.run(
        [tools.cmake, "--install", made, "--prefix", workshop.root / "lib"], check=True, capture_output=True
    )
    alone = {"LOGINMEA_NATIVE_DIR": str(workshop.root / "lib"), "PATH": "", "CXX": ""}
    assert workshop.run(**alone) == ("42", "")
    assert not workshop.cache.exists()
    workshop.set_answer(43)
    assert "no C++ compiler found" in workshop.run("print(loader.unavailable('cpu'))", **alone)[0]


def test_a_relative_cache_is_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CMake takes a relative output directory for one below the build tree, where no library would be found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOGINMEA_CACHE", "cache")
    assert cache.wanted() == tmp_path / "cache"


@pytest.mark.parametrize("name", ["a;b $HOME", "it's \"größe\\", "two words"])
def test_any_path_serves_as_a_cache(workshop: Workshop, name: str) -> None:
    place = workshop.root / name
    temporary = workshop.root / "tmp"
    temporary.mkdir()
    out, err = workshop.run(LOGINMEA_CACHE=str(place), TMPDIR=str(temporary))
    assert out == "42"
    assert "RuntimeWarning" not in err
    assert workshop.run(LOGINMEA_CACHE=str(place), TMPDIR=str(temporary)) == ("42", "")
    assert len(list(place.glob("cpu-*/loginmea_cpu.so"))) == 1


@pytest.mark.hostile("native cache")
@pytest.mark.skipif(os.name != "posix", reason="speaks of modes and owners")
@pytest.mark.parametrize(("mode", "owner"), [(0o777, None), (0o772, None), (0o700, 12345)])
def test_a_cache_that_others_can_write_to_is_not_trusted(
    workshop: Workshop, mode: int, owner: int | None
) -> None:
    workshop.run()
    workshop.cache.chmod(mode)
    if owner is not None:
        if os.getuid() != 0:
            pytest.skip("only root gives files away")
        os.chown(workshop.cache, owner, -1)
    temporary = workshop.root / "tmp"
    temporary.mkdir()
    out, err = workshop.run(TMPDIR=str(temporary))
    assert out == "42"
    assert err.count("compiling") == 1, "the library in the open cache is not loaded"
    assert err.count("RuntimeWarning") == 1
    assert ("written by others" if owner is None else "belongs to another user") in err
    assert "set LOGINMEA_CACHE" in err
    assert not workshop.root.joinpath("tmp", f"loginmea_fast-{os.getuid()}").stat().st_mode & 0o077


def test_a_directory_writable_by_the_users_own_group_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "cache"
    place.mkdir()
    place.chmod(0o775)
    monkeypatch.setenv("LOGINMEA_CACHE", str(place))
    for own, expected in ((True, [place]), (False, [])):
        monkeypatch.setattr(cache, "_private_group", lambda gid, own=own: own)
        assert [found for found in cache.places() if found == place] == expected


HOLD = """
import sys, time
from loginmea_fast.locks import locked
with locked({path!r}):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_ends_with_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(path=str(path))], stdout=subprocess.PIPE, text=True
    )
    with _group_of(owner, alone=True):
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(Taken), locked(path):
            pass
        owner.kill()
        owner.wait()
        with locked(path):
            assert path.exists()
        with locked(path):
            pass
