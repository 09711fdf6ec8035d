"""`loginmea-fast align`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from loginmea_fast.cli.options import Json, RightGraph, key_flags, keys_given
from loginmea_fast.cli.tables import duration, table, tell
from loginmea_fast.errors import ConfigError
from loginmea_fast.training.config import Config
from loginmea_fast.training.keys import KEYS

EXAMPLES = """\
examples:
  loginmea-fast align left.nt.gz right.ttl --seeds seeds.tsv --out found        two graphs and some known pairs
  loginmea-fast align left.csv right.csv --out found                            no pair known: names and identifiers
  loginmea-fast align data/my_pair --out found                  a data set: every known link teaches or calibrates
  loginmea-fast align data/my_pair --method propagate --out found      without training, sooner
  loginmea-fast align runs/zh_en --out found                    a trained run
  loginmea-fast align data/dbp15k/fr_en --seed-ratio 0.1 --out found   and measure on the other links
  loginmea-fast align data/my_pair --out found --precision 0.99 --format csv

DIR gets the matches (alignment.tsv), those that are not sure enough (rejected.tsv), the best candidates of each entity
(candidates.tsv), entities judged to have no counterpart (unmatched.tsv), and report.json. A training that is stopped is
kept in DIR/training; the same command goes on with it."""

if TYPE_CHECKING:
    from loginmea_fast.data import AlignmentPair

    Flags = dict[str, Any]
else:
    Flags = key_flags(
        name for name in KEYS if name not in ("path", "format", "decoder", "candidates", "compat")
    )


def run(
    left: Annotated[
        str,
        Parameter(
            name="LEFT",
            metavar="LEFT",
            help="file or directory of the left graph; or directory of a data set or a run, or 'embedded'",
        ),
    ],
    right: RightGraph = None,
    /,
    *,
    out: Annotated[str, Parameter(metavar="DIR", help="directory for the alignment")],
    seeds: Annotated[
        str | None, Parameter(metavar="FILE", help="known pairs of entities of LEFT and RIGHT")
    ] = None,
    decisions: Annotated[
        str | None,
        Parameter(
            metavar="FILE",
            help="pairs accepted or rejected on the page of report: learned from, or never matched again",
        ),
    ] = None,
    pivots: Annotated[
        bool | None,
        Parameter(
            negative="--no-pivots",
            help="learn from pairs that equal names and identifiers give, too; default: where few pairs are known",
        ),
    ] = None,
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
    input_format: Annotated[
        str,
        Parameter(metavar="NAME", help="of LEFT and RIGHT, or layout of the data set; default: by the files"),
    ] = "auto",
    columns: Annotated[
        str | None,
        Parameter(metavar="LIST", help="names or numbers of head, relation and tail in tables, by commas"),
    ] = None,
    skip_bad_lines: Annotated[
        bool, Parameter(negative="", show_default=False, help="read past lines that are none, and count them")
    ] = False,
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
    from loginmea_fast.runs import align, check_configuration, load_pair, prepare_kernels
    from loginmea_fast.runs.aligning import check_directory, check_format, check_options, read_decisions

    given = keys_given(keys)
    check_options(method, precision, decoder, direction, candidates, folds)
    formats = [name.strip() for name in format.split(",")]
    for name in formats:
        check_format(name)
    check_directory(out, overwrite)
    shared: dict[str, Any] = {
        "precision": precision,
        "decoder": decoder,
        "direction": direction,
        "k": candidates,
    }
    if right is None and (Path(left) / "config.toml").is_file():
        if any(given is not None for given in (config, folds, pivots, decisions)) or method != "model":
            raise ConfigError(
                "a run has its configuration and its links; leave --config, --decisions, --folds, --pivots and "
                "--method out"
            )
        found = align(left, **shared, **given)
    else:
        if right is None:
            given |= {"path": left, "format": input_format}
        configuration = Config.load(config, given) if config is not None else Config(**given)
        check_configuration(configuration)
        if right is not None:
            asked = None if columns is None else [_column(column) for column in columns.split(",")]
            pair = _read(left, right, seeds, input_format, asked, skip_bad_lines, configuration)
        elif seeds is not None or columns is not None or skip_bad_lines:
            raise ConfigError(
                f"--seeds, --columns and --skip-bad-lines go with two graphs, LEFT and RIGHT; {left} alone is a data "
                "set with links of its own"
            )
        else:
            pair = load_pair(configuration)
        tell(pair, quiet)
        prepare_kernels(configuration)
        found = align(
            pair,
            method=method,
            config=configuration,
            decisions=None if decisions is None else read_decisions(decisions, pair),
            pivots=pivots,
            folds=folds,
            progress=None if not quiet else False,
            keep=Path(out) / "training",
            overwrite=overwrite,
            **shared,
        )
    found.save(out, formats, overwrite)
    print(json.dumps({"out": out, **found.report()}, indent=2) if as_json else describe(found.report(), out))
    return 0


def _read(
    left: str,
    right: str,
    seeds: str | None,
    format: str,
    columns: list[str | int] | None,
    skip_bad_lines: bool,
    config: Config,
) -> AlignmentPair:
    """Two graphs and their known pairs from files."""
    from loginmea_fast.data import AlignmentPair, read_graph, read_seeds

    if Path(left).exists() and Path(right).exists() and Path(left).samefile(right):
        raise ConfigError(f"{left} and {right} are the same file; name the two graphs that are to be aligned")
    graphs = [read_graph(path, format, columns, skip_bad_lines=skip_bad_lines) for path in (left, right)]
    return AlignmentPair.from_labeled_triples(
        graphs[0],
        graphs[1],
        None if seeds is None else read_seeds(seeds, skip_bad_lines=skip_bad_lines),
        modalities=config.modalities,
        vectors=config.vectors,
        name_attributes=config.name_attributes or (),
        bag_size=config.bag_size,
    )


def _column(text: str) -> str | int:
    return int(text) if text.strip().lstrip("-").isdigit() else text.strip()


def describe(report: dict[str, Any], out: str) -> str:
    """The summary for people."""
    alone = report["without_counterpart"]
    beside = " beside pivots" if report["pivots"] else ""
    rows = [
        ["matches", f"{report['matches']:,}"],
        ["threshold of confidence", f"{report['threshold']:.3f}"],
        ["expected precision", _share(report["expected_precision"])],
        [f"expected share of the counterparts found{beside}", _share(report["expected_recall"])],
        ["known links, pivots", f"{report['known_links']:,}, {sum(report['pivots'].values()):,}"],
        ["  of both held out", f"{report['held_out_links']:,}"],
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
    if any(report["decisions"].values()):
        taken = report["decisions"]
        rows.insert(5, ["decisions: accepted, rejected", f"{taken['accepted']:,}, {taken['rejected']:,}"])
    lines = [table([f"{report['method']}, {report['decoder']}", ""], rows)]
    lines += [f"note: {note}" for note in report["notes"]]
    lines.append(f"written to {shlex.quote(out)}; look at it: loginmea-fast report {shlex.quote(out)}")
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
