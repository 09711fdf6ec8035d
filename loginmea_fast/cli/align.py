"""`loginmea-fast align`."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from loginmea_fast.cli.options import Json, key_flags, keys_given
from loginmea_fast.cli.tables import duration, table
from loginmea_fast.errors import ConfigError
from loginmea_fast.training.config import KEYS, Config

EXAMPLES = """\
examples:
  loginmea-fast align data/my_pair --out found                  a data set: every known link teaches or calibrates
  loginmea-fast align data/my_pair --method propagate --out found      without training, in seconds
  loginmea-fast align runs/zh_en --out found                    a trained run
  loginmea-fast align data/dbp15k/fr_en --seed-ratio 0.1 --out found   and measure on the other links
  loginmea-fast align data/my_pair --out found --precision 0.99 --format csv

DIR gets the matches (alignment.tsv), the best candidates of each entity (candidates.tsv), entities judged to have no
counterpart (unmatched.tsv), and report.json."""

if TYPE_CHECKING:
    Flags = dict[str, Any]
else:
    Flags = key_flags(
        name for name in KEYS if name not in ("path", "format", "decoder", "candidates", "compat")
    )


def run(
    source: Annotated[
        str,
        Parameter(
            name="SOURCE", metavar="SOURCE", help="directory of a data set, or of a run; or 'embedded'"
        ),
    ],
    /,
    *,
    out: Annotated[str, Parameter(metavar="DIR", help="directory for the alignment")],
    method: Annotated[
        Literal["model", "propagate"],
        Parameter(help="train the model, or propagate labels of the known links without training"),
    ] = "model",
    format: Annotated[
        str,
        Parameter(
            metavar="LIST",
            help="of the matches: tsv, csv, parquet, sssom, sameas, alignment-rdf; several by commas",
        ),
    ] = "tsv",
    layout: Annotated[
        str | None, Parameter(metavar="NAME", help="layout of the data set; default: what its files say")
    ] = None,
    precision: Annotated[
        float,
        Parameter(metavar="X", help="expected precision of the matches: sets the threshold of confidence"),
    ] = 0.95,
    decoder: Annotated[
        str, Parameter(metavar="NAME", help="how matches are found among candidates")
    ] = "one_to_one",
    direction: Annotated[
        Literal["left_to_right", "right_to_left"], Parameter(help="which graph's entities are matched")
    ] = "left_to_right",
    folds: Annotated[
        int | None,
        Parameter(
            metavar="N",
            help="hold each known link out once, in N trainings and one more; default: a part, once",
        ),
    ] = None,
    candidates: Annotated[
        int, Parameter(metavar="K", help="candidates of each entity in candidates.tsv")
    ] = 5,
    overwrite: Annotated[
        bool, Parameter(negative="", show_default=False, help="replace the alignment in DIR")
    ] = False,
    config: Annotated[
        str | None, Parameter(metavar="FILE", help="TOML file with configuration keys; flags win")
    ] = None,
    quiet: Annotated[bool, Parameter(negative="", show_default=False, help="no progress on stderr")] = False,
    as_json: Json = False,
    keys: Annotated[Flags | None, Parameter(name="*")] = None,
) -> int:
    """Match entities, write the matches, print what they are worth."""
    from loginmea_fast.runs import align, load_pair, prepare_kernels
    from loginmea_fast.runs.aligning import check_directory, check_format, check_options

    given = keys_given(keys) | ({} if layout is None else {"format": layout})
    check_options(method, precision, decoder, direction, candidates, folds)
    formats = format.split(",")
    for name in formats:
        check_format(name)
    check_directory(out, overwrite)
    shared: dict[str, Any] = {
        "precision": precision,
        "decoder": decoder,
        "direction": direction,
        "k": candidates,
    }
    if (Path(source) / "config.toml").is_file():
        if config is not None or folds is not None or method != "model":
            raise ConfigError(
                "a run has its configuration and its links; leave --config, --folds and --method out"
            )
        found = align(source, **shared, **given)
    else:
        given["path"] = source
        configuration = Config.load(config, given) if config is not None else Config(**given)
        pair = load_pair(configuration)
        if not quiet:
            print(pair.describe(), file=sys.stderr)
        prepare_kernels(configuration)
        progress = None if not quiet else False
        found = align(pair, method=method, config=configuration, folds=folds, progress=progress, **shared)
    found.save(out, formats, overwrite)
    print(json.dumps({"out": out, **found.report()}, indent=2) if as_json else describe(found.report(), out))
    return 0


def describe(report: dict[str, Any], out: str) -> str:
    """The summary for people."""
    alone = report["without_counterpart"]
    rows = [
        ["matches", f"{report['matches']:,}"],
        ["threshold of confidence", f"{report['threshold']:.3f}"],
        ["expected precision", _share(report["expected_precision"])],
        ["expected share of the counterparts found", _share(report["expected_recall"])],
        ["known links, of which held out", f"{report['known_links']:,}, {report['held_out_links']:,}"],
        ["calibration error on those held out", _share(report["reliability"]["error"])],
        ["without counterpart, left and right", f"{alone['left']:,}, {alone['right']:,}"],
        ["expected precision of these", _share(alone["expected_precision"])],
    ]
    if report["measured"]:
        figures = report["measured"]
        rows += [
            [
                f"measured on {report['withheld_links']:,} withheld links: precision",
                _share(figures["precision"]),
            ],
            ["  recall", _share(figures["recall"])],
            ["  calibration error", _share(figures["calibration_error"])],
        ]
    rows.append(["time", duration(report["seconds"])])
    lines = [table([f"{report['method']}, {report['decoder']}", ""], rows)]
    lines += [f"note: {note}" for note in report["notes"]]
    lines.append(f"written to {shlex.quote(out)}")
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
