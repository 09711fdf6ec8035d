"""Native libraries: found, built on first use, cached and loaded.

What may raise where: importing this package touches nothing; :func:`unavailable` and :func:`status` never build and never
raise; :func:`load` builds when it has to and raises :class:`~loginmea_fast.errors.BuildError`, the same one for the rest of
the process, so that a broken compiler is met once and not on every call.

Environment: ``LOGINMEA_CACHE`` (where libraries are kept), ``LOGINMEA_NATIVE_DIR`` (libraries built ahead of time),
``LOGINMEA_MARCH`` (default ``native``), ``LOGINMEA_CUDA_ARCHS`` (default ``80;90``), ``CXX``, ``CUDA_HOME``, ``MAX_JOBS``.
"""

from __future__ import annotations

from loginmea_fast.native.loader import dtype_code, load, status, unavailable

__all__ = ["dtype_code", "load", "status", "unavailable"]
