"""Native libraries: found, built on first use, cached and loaded.

What may raise where: importing this package touches nothing; `unavailable` and `status` never build and never
raise; `load` builds when it has to and raises `BuildError`, the same one for the rest of the process, so that
a broken compiler is met once and not on every call.

Environment:
    LOGINMEA_CACHE: where built libraries are kept (default: loginmea_fast in the user's cache directory).
    LOGINMEA_NATIVE_DIR: where libraries built ahead of time are looked for first.
    LOGINMEA_MARCH: the processor to build for (default: native).
    LOGINMEA_CUDA_ARCHS: the compute capabilities to build for (default: 80;90).
    CXX, CXXFLAGS, CUDA_HOME, CUDACXX: compilers and their flags.
    MAX_JOBS: compilers at once (default: what cores and free memory allow).
"""

from __future__ import annotations

from loginmea_fast.native.loader import address, dtype_code, load, status, unavailable

__all__ = ["address", "dtype_code", "load", "status", "unavailable"]
