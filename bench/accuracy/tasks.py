"""What is measured: a data set, its modalities, its share of known links; and the line a smoke run must reach."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import product
from pathlib import Path

__all__ = ["DATA", "PLAN", "SMOKE", "TASKS", "Task"]

DATA = Path(os.environ.get("LOGINMEA_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


@dataclass(frozen=True)
class Task:
    """One setting of the field.

    Attributes:
        directory: of the data, below `DATA`.
        modalities: what the model sees beside the entities' neighbours.
        seed_ratio: share of the links that is known; None for the official split.
        candidates: "test" targets or "all".
    """

    directory: str
    modalities: tuple[str, ...]
    seed_ratio: float | None = 0.3
    candidates: str = "test"


_MAIN = ("zh_en", "fr_en", "FB15K_DB15K 20 %")
_STRUCTURE = ("relation",)
_ATTRIBUTES = ("relation", "attribute")
_NAMES = ("relation", "attribute", "name_tfidf")
_VALUES = ("relation", "attribute", "value")

TASKS = {
    "zh_en structure": Task("dbp15k/zh_en", _STRUCTURE),
    "zh_en": Task("dbp15k/zh_en", _ATTRIBUTES),
    "zh_en names": Task("dbp15k/zh_en", _NAMES),
    "fr_en structure": Task("dbp15k/fr_en", _STRUCTURE),
    "fr_en": Task("dbp15k/fr_en", _ATTRIBUTES),
    "fr_en names": Task("dbp15k/fr_en", _NAMES),
    "FB15K_DB15K 20 %": Task("mmkb/FB15K_DB15K", _VALUES, 0.2),
    "FB15K_DB15K 50 %": Task("mmkb/FB15K_DB15K", _VALUES, 0.5),
    "FB15K_DB15K 80 %": Task("mmkb/FB15K_DB15K", _VALUES, 0.8),
    "contea FR_EN": Task("contea/FR_EN", _STRUCTURE, None, "all"),
}
"""By the name in the tables."""

PLAN = {
    **dict.fromkeys(product(("zh_en structure", "fr_en structure", *_MAIN), ("fast",)), 5),
    **dict.fromkeys(product(_MAIN, ("default",)), 5),
    **{(task, "default"): 3 for task in TASKS if task.endswith(("structure", "names", "50 %", "80 %"))},
    ("zh_en", "best"): 1,
    ("contea FR_EN", "fast"): 1,
}
"""(task, preset) -> seeds: the table of the README; the fewest where they take longest."""

SMOKE = {("zh_en", "default"): 0.81, ("FB15K_DB15K 20 %", "fast"): 0.63}
"""(task, preset) -> Hits@1 by CSLS, left to right, of test links, that seed 0 must reach."""
