"""What is shipped is complete, and importing it asks for nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

IMPORT = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"triton", "pybind11", "cmake", "ninja", "h5py", "faiss", "scipy", "pyarrow"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Nothing())
import loginmea_fast
for name in loginmea_fast.__all__:
    getattr(loginmea_fast, name)
print(loginmea_fast.__version__)
print(*sorted(name for name in sys.modules if name.startswith("loginmea_fast.kernels.")))
"""


def test_every_package_directory_is_declared() -> None:
    declared = set(PROJECT["tool"]["setuptools"]["packages"])
    present = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "loginmea_fast").rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert declared == present | {"loginmea_fast.csrc", "loginmea_fast.kernels"}


def test_import_needs_no_compiler_no_triton_no_gpu_and_leaves_no_trace(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PATH": "",
        "CUDA_VISIBLE_DEVICES": "",
        "LOGINMEA_CACHE": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    version, kernels = done.stdout.split("\n")[:2]
    assert version == "0.1.0"
    assert kernels == "", "a Triton kernel was imported by importing the package"
    assert done.stderr == ""
    assert not (tmp_path / "cache").exists()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built with this environment's setuptools and no network."""
    target = tmp_path_factory.mktemp("wheel")
    code = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"
    copy = tmp_path_factory.mktemp("checkout") / "project"
    # setuptools leaves build/ and *.egg-info beside its sources, and a stale build/ would leak into the wheel.
    names = ("pyproject.toml", "README.md", "LICENSE", "loginmea_fast", "kernels", "csrc")
    copy.mkdir()
    for name in names:
        (copy / name).symlink_to(ROOT / name)
    done = subprocess.run([sys.executable, "-c", code, str(target)], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target / done.stdout.strip().splitlines()[-1]


def test_the_wheel_holds_sources_and_no_binary(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {"loginmea_fast/py.typed", "loginmea_fast/csrc/CMakeLists.txt"}
    for suffix in ("h", "cuh", "cpp", "cu"):
        expected |= {
            f"loginmea_fast/{path.relative_to(ROOT)}" for path in (ROOT / "csrc").rglob(f"*.{suffix}")
        }
    expected |= {f"loginmea_fast/{path.relative_to(ROOT)}" for path in (ROOT / "kernels").glob("*.py")}
    expected |= {str(path.relative_to(ROOT)) for path in (ROOT / "loginmea_fast").rglob("*.py")}
    data = (ROOT / "loginmea_fast" / "data").rglob("*")
    expected |= {
        str(path.relative_to(ROOT)) for path in data if path.is_file() and "__pycache__" not in path.parts
    }
    assert expected <= names
    assert not [name for name in names if name.endswith((".so", ".o", ".pyc"))]
    assert {name.split("/")[0] for name in names} == {"loginmea_fast", f"loginmea_fast-{version()}.dist-info"}


def test_an_unpacked_wheel_finds_its_sources(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = "from loginmea_fast.native.sources import Sources, find_root; r = find_root(); print(r); "
    code += "print(Sources.read(r, 'cpu').digest); import loginmea_fast.kernels as k; print(k.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    root, digest, kernels = done.stdout.splitlines()
    assert Path(root) == tmp_path / "loginmea_fast" / "csrc"
    assert Path(kernels).parent == tmp_path / "loginmea_fast" / "kernels"
    from loginmea_fast.native.sources import Sources

    assert digest == Sources.read(ROOT / "csrc", "cpu").digest


def version() -> str:
    from loginmea_fast.version import __version__

    return __version__
