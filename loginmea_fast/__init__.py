"""loginmea_fast: entity alignment of two multi-modal knowledge graphs from fused operators.

The names below are imported when they are first used, so that `import loginmea_fast` stays quick and needs neither a
compiler nor Triton nor a GPU.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from loginmea_fast.version import __version__

if TYPE_CHECKING:
    from loginmea_fast import (
        data,
        errors,
        evaluation,
        native,
        nn,
        ops,
        propagation,
        reference,
        runs,
        training,
    )
    from loginmea_fast.data import AlignmentPair
    from loginmea_fast.graph import AlignmentGraph
    from loginmea_fast.nn import LoginMEA
    from loginmea_fast.runs import Alignment, align, fit
    from loginmea_fast.training import Config

_NAMES = {
    "Alignment": "loginmea_fast.runs",
    "AlignmentGraph": "loginmea_fast.graph",
    "AlignmentPair": "loginmea_fast.data",
    "Config": "loginmea_fast.training",
    "LoginMEA": "loginmea_fast.nn",
    "align": "loginmea_fast.runs",
    "fit": "loginmea_fast.runs",
}

__all__ = [
    "Alignment",
    "AlignmentGraph",
    "AlignmentPair",
    "Config",
    "LoginMEA",
    "__version__",
    "align",
    "data",
    "errors",
    "evaluation",
    "fit",
    "native",
    "nn",
    "ops",
    "propagation",
    "reference",
    "runs",
    "training",
]


# All that is public and not a name of a module is a module.
_MODULES = frozenset(__all__) - _NAMES.keys() - {"__version__"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
