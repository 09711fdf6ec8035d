"""`loginmea-fast evaluate`: of a run, or of matches in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from loginmea_fast.cli.options import Json, key_flags, keys_given
from loginmea_fast.cli.tables import describe_metrics, described_epoch, table
from loginmea_fast.errors import ConfigError
from loginmea_fast.training.keys import KEYS

EXAMPLES = """\
examples:
  loginmea-fast evaluate runs/zh_en
  loginmea-fast evaluate runs/zh_en --candidates all       rank among all entities, not among the test targets alone
  loginmea-fast evaluate runs/zh_en --decoder sinkhorn     beside cosine and CSLS; all: every decoder
  loginmea-fast evaluate runs/zh_en --propagation none --no-late-names     the model, with nothing beside it
  loginmea-fast evaluate runs/zh_en --checkpoint last      the parameters of the last epoch, not the best
  loginmea-fast evaluate runs/zh_en --json | jq .csls.left_to_right.mrr
  loginmea-fast evaluate runs/zh_en --plot curves.svg      loss, validation, links, Hits by degree as a picture
  loginmea-fast evaluate found/alignment.tsv gold.tsv      precision, recall, reliability of matches
  loginmea-fast evaluate found/alignment.tsv gold.tsv --plot sure.svg   the reliability diagram and the curve"""


if TYPE_CHECKING:
    Flags = dict[str, Any]
else:
    _DECODING = (key.name for key in KEYS.values() if key.section == "evaluation")
    Flags = key_flags(("vectors", "propagation", "late_names", "late_pairs", *_DECODING, "device", "backend"))


def run(
    path: Annotated[
        str, Parameter(name="RUN", metavar="RUN", help="run directory that train made, or a file of matches")
    ],
    gold: Annotated[
        str | None,
        Parameter(
            name="GOLD", metavar="GOLD", help="links to measure a file of matches by: left, right a line"
        ),
    ] = None,
    /,
    *,
    data: Annotated[
        str | None, Parameter(metavar="DIR", help="where the data set is now, if it has moved")
    ] = None,
    checkpoint: Annotated[
        Literal["best", "last"] | None,
        Parameter(help="which parameters; default: best, or last where no epoch was validated yet"),
    ] = None,
    plot: Annotated[
        str | None, Parameter(metavar="FILE", help="draw the figures, too: an SVG, PNG or PDF")
    ] = None,
    as_json: Json = False,
    keys: Annotated[Flags | None, Parameter(name="*")] = None,
) -> int:
    """Print the metrics of one of the run's checkpoints, or of matches."""
    if plot is not None:
        from loginmea_fast.report.plot import check_plot

        check_plot(plot)
    if gold is not None or Path(path).is_file():
        return _matches(path, gold, plot, as_json, data is not None or checkpoint is not None or bool(keys))
    from loginmea_fast.runs import evaluate

    changes = keys_given(keys) | ({} if data is None else {"path": data})
    result = evaluate(path, checkpoint=checkpoint, **changes)
    if plot is not None:
        from loginmea_fast.report.plot import draw
        from loginmea_fast.report.run import run_figures

        draw(run_figures(Path(path), result), plot)
    if as_json:
        print(json.dumps({"run": path, **result}, indent=2))
    else:
        epoch = described_epoch(result["epoch"], result["best_epoch"])
        print(f"{path}: {epoch}; {', '.join(result['modalities']) or 'structure only'}")
        print(describe_metrics(result))
    return 0


def _matches(path: str, gold: str | None, plot: str | None, as_json: bool, flags: bool) -> int:
    """Measure the matches of a file."""
    from loginmea_fast.evaluation.matches import match_metrics
    from loginmea_fast.runs.aligning import read_matches, spelt_alike

    if gold is None:
        raise ConfigError(
            f"{path} is a file of matches; name the links to measure them by: evaluate {path} GOLD"
        )
    if flags:
        raise ConfigError("matches in a file are measured as they stand; leave the flags of a run out")
    links = read_matches(gold)
    found = spelt_alike(read_matches(path), links)
    result = match_metrics(found.pairs, links.pairs, found.confidence)
    if not result["judged"]:
        swapped = not {left for left, _ in found.pairs}.isdisjoint(right for _, right in links.pairs)
        raise ConfigError(
            f"no entity of {path} is in {gold}, so that no match can be judged: {found.pairs[0][0]!r} is its first; "
            + (
                "the columns of the links are swapped: the left entity comes first"
                if swapped
                else "links name entities as the matches do"
            )
        )
    if plot is not None:
        if "curve" not in result:
            raise ConfigError(
                f"{path} says no confidence of its matches, and without it there is nothing to draw"
            )
        from loginmea_fast.report.figures import measured_curve, reliability
        from loginmea_fast.report.plot import draw

        draw([reliability(**_bins(result)), measured_curve(result["curve"])], plot)
    if as_json:
        print(json.dumps({"matches_file": path, "gold_file": gold, **result}, indent=2))
        return 0
    parts = [
        f"{path}: {result['matches']:,} matches, of which {result['judged']:,} have an entity of the "
        f"{result['links']:,} links of {gold}",
        table(["", "precision", "recall", "F1"], [["all", *_figures(result)]]),
    ]
    first = links.pairs[0]
    named = [{pair[side] for pair in found.pairs} for side in (0, 1)]
    if all(text.isidentifier() and text not in own for text, own in zip(first, named, strict=True)):
        parts[0] += (
            f"\nnote: {gold} begins with {first[0]!r} and {first[1]!r}, which no match names; they count as a link; "
            "if they are a header, delete it or call the columns left and right"
        )
    if "curve" in result:
        rows = [
            [f"{entry['threshold']:.2f}", f"{entry['matches']:,}", *_figures(entry)]
            for entry in result["curve"]
        ]
        parts.append(table(["confidence from", "matches", "precision", "recall", "F1"], rows))
        bins = [
            [
                f"{b['low']:.1f}-{b['high']:.1f}",
                f"{b['matches']:,}",
                f"{b['confidence']:.3f}",
                f"{b['precision']:.3f}",
            ]
            for b in result["calibration"]["bins"]
        ]
        parts.append(table(["said", "judged matches", "mean confidence", "precision"], bins))
        parts.append(f"expected calibration error {result['calibration']['error']:.3f}")
    print("\n\n".join(parts))
    return 0


def _bins(result: dict[str, Any]) -> dict[str, Any]:
    return {
        "bins": result["calibration"]["bins"],
        "error": result["calibration"]["error"],
        "links": "known links",
    }


def _figures(entry: dict[str, Any]) -> list[str]:
    return [f"{entry[name]:.3f}" for name in ("precision", "recall", "f1")]
