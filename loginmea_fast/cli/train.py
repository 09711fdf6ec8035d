"""`loginmea-fast train`."""

from __future__ import annotations

import argparse
import json
import sys
import time

from loginmea_fast.cli.options import add_json, add_keys, add_set, build_config
from loginmea_fast.cli.runs import fresh_run_directory
from loginmea_fast.cli.tables import describe_metrics
from loginmea_fast.errors import ConfigError

SUMMARY = "train on a data set and measure the test links"
EXAMPLES = """\
examples:
  loginmea-fast train data/dbp15k/zh_en --modalities relation,attribute --epochs 30 --out runs/zh_en
  loginmea-fast train data/mmkb/FB15K_DB15K --seed-ratio 0.2 --dtype bfloat16
  loginmea-fast train embedded                       the real pair that ships with the package
  loginmea-fast train --resume runs/zh_en            go on where it stopped, bit for bit
  loginmea-fast train DIR --print-config > run.toml  every key with its value and meaning; then
  loginmea-fast train --config run.toml --set bootstrap_every=5

A run directory holds config.toml, metrics.jsonl, the links used, and the last and the best checkpoint."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `train` takes."""
    parser.add_argument("data", metavar="DIR", nargs="?", help="directory of the data set, or: embedded")
    parser.add_argument(
        "--out", metavar="RUN", help="new run directory; default: one under runs/ with the time"
    )
    parser.add_argument("--resume", metavar="RUN", help="go on with the run in this directory")
    add_set(parser)
    add_keys(parser, "modalities", "vectors", "format", "fold", "seed_ratio", "epochs", "batch_size", "lr")
    add_keys(parser, "hidden_dim", "rank", "depth", "bootstrap", "patience", "compat", "csls_k", "candidates")
    add_keys(parser, "seed", "device", "dtype", "backend", "threads", "compile")
    parser.add_argument(
        "--print-config", action="store_true", help="print the configuration as TOML and stop"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Train, then print the metrics of the test links."""
    from loginmea_fast.training import RunDirectory, choose_device, fit, load_pair, prepare_kernels

    if args.resume:
        _check_resume(args)
        run = RunDirectory.open(args.resume)
        config, out = run.config, args.resume
        run.check_resumable(config.override(args.overrides or []))
    else:
        config = build_config(args, **({"path": args.data} if args.data else {}))
        out = args.out
    if args.print_config:
        print(config.to_toml(), end="")
        return 0
    if config.path is None:
        raise ConfigError(
            "train needs a data set; name its directory, or 'embedded' for the pair inside the package"
        )
    choose_device(config.device, config.backend)
    if out and not args.resume:
        RunDirectory.check_new(out)
    pair = load_pair(config)
    if not args.quiet:
        print(pair.describe(), file=sys.stderr)
    prepare_kernels(config)
    started = time.perf_counter()
    out = out or fresh_run_directory(pair.name)
    result = fit(pair, config, out, resume=bool(args.resume), progress=not args.quiet)
    seconds = time.perf_counter() - started
    epochs = [record for record in result.history if record["event"] == "epoch"]
    answer = {
        "run": str(out),
        "epochs": len(epochs),
        "best_epoch": result.best_epoch,
        "seconds": round(seconds, 2),
        "peak_memory": max((record["peak_memory"] for record in epochs), default=0),
        "step_memory": max((record["step_memory"] for record in epochs), default=0),
        "metrics": result.metrics,
    }
    print(json.dumps(answer, indent=2) if args.json else _describe(answer))
    return 0


def _check_resume(args: argparse.Namespace) -> None:
    for name, value in (("DIR", args.data), ("--out", args.out), ("--config", args.config)):
        if value:
            raise ConfigError(f"--resume takes the data and the configuration of the run; leave {name} out")


def _describe(answer: dict) -> str:
    mebibytes = 2**20
    return (
        f"{describe_metrics(answer['metrics'])}\n\n"
        f"best epoch {answer['best_epoch']} of {answer['epochs']}; {answer['seconds']:.0f} s; peak memory "
        f"{answer['peak_memory'] / mebibytes:,.0f} MiB, of which a training step took "
        f"{answer['step_memory'] / mebibytes:,.0f} MiB\n"
        f"run directory: {answer['run']}\n"
        f"again at any time: loginmea-fast evaluate {answer['run']}"
    )
