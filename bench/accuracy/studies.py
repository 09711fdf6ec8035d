"""Series of trainings that differ in one thing: what each ingredient is worth, and where the recipe bends.

Those with `held_out` are what the recipe is chosen by: their tables show links held out of the seeds, and no test link.
The others explain it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.accuracy.case import Case

__all__ = ["STUDIES", "Row", "Study"]


@dataclass(frozen=True)
class Row:
    """One line of a table, or point of a curve.

    Attributes:
        label: of the line.
        changes: see `Case`.
        removed: see `Case`.
        at: the place on a curve's axis.
    """

    label: str
    changes: tuple[str, ...] = ()
    removed: float = 0.0
    at: float | None = None


@dataclass(frozen=True)
class Study:
    """Rows that are compared, on each of some tasks.

    Attributes:
        title: of the table.
        rows: task -> its rows, the one that the others are held against first.
        axis: what `Row.at` counts, where the study is a curve.
        preset: of every row.
        seeds: how many trainings a row is the mean of, from seed 0.
        held_out: share of the known links that rows are judged by; None judges by test links.
    """

    title: str
    rows: dict[str, tuple[Row, ...]]
    axis: str = ""
    preset: str = "fast"
    seeds: int = 1
    held_out: float | None = None

    def cases(self) -> Iterator[tuple[Row, Case]]:
        """Every training; those of a row follow each other."""
        held_out = () if self.held_out is None else (f"valid_ratio={self.held_out}",)
        for task, rows in self.rows.items():
            for row in rows:
                for seed in range(self.seeds):
                    yield row, Case(task, self.preset, seed, row.changes + held_out, row.removed)


_MAIN = ("zh_en", "FB15K_DB15K 20 %")

_INGREDIENTS = (
    Row("as it is"),
    Row("without propagated labels beside the model", ("propagation=none",)),
    Row("without embeddings that linked entities share", ("share_seeds=false",)),
    Row("without further negatives", ("hard_samples=0",)),
    Row("InfoNCE in the batch in place of the hard-sample loss", ("objectives=contrastive",)),
    Row("without dropout", ("dropout=0",)),
    Row("AdamW in place of RMSprop", ("optimizer=adamw",)),
    Row("bags of counts of the 1,000 most frequent", ("bags=counts", "bag_size=1000")),
    Row("rows of bags not scaled", ("scale_features=false",)),
    Row("low-rank fusion in place of channels", ("aggregation=fused",)),
    Row("low-rank fusion beside the channels", ("aggregation=both",)),
    Row("two models side by side", ("members=2",)),
    Row("four models side by side", ("members=4",)),
    Row("one round of bootstrapping", ("rounds=1",)),
    Row("two rounds of bootstrapping", ("rounds=2",)),
    Row("two rounds, without labels of the links that joined", ("rounds=2", "late_pairs=false")),
    Row("rows that are not whitened", ("whitening=0",)),
)
_CHOICES = (
    *_INGREDIENTS,
    Row("rows whitened as far as can be", ("whitening=1",)),
    Row(
        "low-rank fusion beside the channels, without what an entity lacks",
        ("aggregation=both", "missing=mask"),
    ),
)

_BEST = (
    Row("as it is"),
    Row("two models side by side", ("members=2",)),
    Row("two models, more epochs", ("members=2", "epochs=12")),
    Row("further rounds of bootstrapping", ("rounds=4",)),
)

_MEMBERS = (
    Row("one model"),
    Row("two side by side", ("members=2",)),
    Row("two, no known link held out", ("members=2", "valid_ratio=0")),
)

_FUSED = "aggregation=fused"
_PAPER = (
    Row("fused as in the paper", (_FUSED,)),
    Row("without local fusion", (_FUSED, "use_local_fusion=false")),
    Row("without adaptive weights", (_FUSED, "use_adaptive_weights=false")),
    Row("without low-rank interaction", (_FUSED, "use_low_rank=false")),
    Row("without global aggregation", (_FUSED, "use_global_aggregation=false")),
    Row("without the graph encoder", (_FUSED, "use_graph_encoder=false")),
)


def _modalities(*subsets: str) -> tuple[Row, ...]:
    return tuple(Row(subset.replace(",", ", "), (f"modalities={subset}",)) for subset in subsets)


_SEEDS = tuple(
    Row(f"{100 * share:.0f} %", (f"seed_ratio={share}",), at=100 * share)
    for share in (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8)
)
_MISSING = tuple(
    Row(f"{100 * share:.0f} %", removed=share, at=100 * share) for share in (0.0, 0.2, 0.4, 0.6, 0.8)
)

STUDIES = {
    "ingredients": Study("What each ingredient is worth", dict.fromkeys(_MAIN, _INGREDIENTS)),
    "members": Study(
        "Without bootstrapping: models side by side",
        dict.fromkeys(("zh_en", "fr_en"), _MEMBERS),
        seeds=5,
    ),
    "paper": Study("The paper's ablations, under this recipe", dict.fromkeys(_MAIN, _PAPER)),
    "modalities": Study(
        "What the model sees",
        {
            "zh_en": _modalities("relation,attribute", "relation", "attribute"),
            "FB15K_DB15K 20 %": _modalities(
                "relation,attribute,value", "relation,attribute", "relation,value", "relation", "value"
            ),
        },
    ),
    "seeds": Study("How many links are known", dict.fromkeys(_MAIN, _SEEDS), "links that are known, %"),
    "missing": Study(
        "What is missing",
        dict.fromkeys(_MAIN, _MISSING),
        "entities without attributes and values, %",
    ),
    "choices": Study(
        "What the recipe is chosen by",
        dict.fromkeys(("zh_en", "fr_en", "FB15K_DB15K 20 %"), _CHOICES),
        held_out=0.3,
    ),
    "best": Study("What `best` is chosen by", dict.fromkeys(_MAIN, _BEST), preset="default", held_out=0.3),
}
"""By the name that the command takes."""
