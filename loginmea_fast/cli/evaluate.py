"""`loginmea-fast evaluate`."""

from __future__ import annotations

import argparse
import json

from loginmea_fast.cli.options import add_json, add_keys
from loginmea_fast.cli.tables import describe_metrics

SUMMARY = "measure a trained run on its test links"
EXAMPLES = """\
examples:
  loginmea-fast evaluate runs/zh_en
  loginmea-fast evaluate runs/zh_en --candidates all       rank among all entities, not among the test targets alone
  loginmea-fast evaluate runs/zh_en --decoder sinkhorn     beside cosine and CSLS; all: every decoder
  loginmea-fast evaluate runs/zh_en --checkpoint last      the parameters of the last epoch, not the best
  loginmea-fast evaluate runs/zh_en --json | jq .csls.left_to_right.mrr"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `evaluate` takes."""
    parser.add_argument("path", metavar="RUN", help="run directory that train made")
    parser.add_argument(
        "--data",
        dest="overrides",
        action="append",
        type="path={}".format,
        metavar="DIR",
        help="where the data set is now, if it has moved",
    )
    parser.add_argument(
        "--checkpoint",
        choices=("best", "last"),
        help="which parameters; default: best, or last where no epoch was validated yet",
    )
    add_keys(parser, "candidates", "csls_k", "decoder", "device", "backend")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the metrics of one of the run's checkpoints."""
    from loginmea_fast.evaluation import evaluate
    from loginmea_fast.training.config import parse_overrides

    result = evaluate(args.path, checkpoint=args.checkpoint, **parse_overrides(args.overrides or []))
    if args.json:
        print(json.dumps({"run": args.path, **result}, indent=2))
    else:
        print(f"{args.path}: epoch {result['epoch']}; {', '.join(result['modalities']) or 'structure only'}")
        print(describe_metrics(result))
    return 0
