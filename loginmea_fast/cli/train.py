"""`loginmea-fast train`."""

from __future__ import annotations

import json
import logging
import os
import shlex
import time
import warnings
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from loginmea_fast.cli.options import Json, key_flags, key_help, keys_given
from loginmea_fast.cli.runs import fresh_run_directory
from loginmea_fast.cli.tables import describe_metrics, described_epoch, tell
from loginmea_fast.errors import ConfigError
from loginmea_fast.log import log
from loginmea_fast.training.config import Config
from loginmea_fast.training.keys import KEYS

EXAMPLES = """\
examples:
  loginmea-fast train data/dbp15k/zh_en --modalities relation,attribute --epochs 30 --out runs/zh_en
  loginmea-fast train data/mmkb/FB15K_DB15K --seed-ratio 0.2 --dtype bfloat16
  loginmea-fast train embedded                       the real pair that ships with the package
  loginmea-fast train DIR --plan                     what memory it will need, before anything is trained
  loginmea-fast train --resume runs/zh_en            go on where it stopped, bit for bit
  loginmea-fast train DIR --print-config > run.toml  every key with its value and meaning; then
  loginmea-fast train --config run.toml --set bootstrap_every=5

A run directory holds config.toml, metrics.jsonl, the links used, and the last and the best checkpoint."""


if TYPE_CHECKING:
    Flags = dict[str, Any]
else:
    Flags = key_flags(name for name in KEYS if name != "path")


def run(
    path: Annotated[
        str | None, Parameter(name=("--data", "--path"), metavar="DIR", help=key_help(KEYS["path"]))
    ] = None,
    *,
    out: Annotated[
        str | None, Parameter(metavar="RUN", help="new run directory; default: one under runs/ with the time")
    ] = None,
    resume: Annotated[
        str | None,
        Parameter(
            metavar="RUN",
            help="go on with the run in this directory; DIR and --vectors: where they are now; --epochs: how many now",
        ),
    ] = None,
    config: Annotated[
        str | None, Parameter(metavar="FILE", help="TOML file with configuration keys; flags and --set win")
    ] = None,
    set_: Annotated[
        str | None,
        Parameter(
            name="--set",
            metavar="KEY=VALUE",
            help="any configuration key, for example --set weight_decay=0; repeatable, the last one wins",
        ),
    ] = None,
    print_config: Annotated[
        bool, Parameter(negative="", show_default=False, help="print the configuration as TOML and stop")
    ] = False,
    plan: Annotated[
        bool,
        Parameter(negative="", show_default=False, help="print what memory training will need, and stop"),
    ] = False,
    quiet: Annotated[bool, Parameter(negative="", show_default=False, help="no progress on stderr")] = False,
    as_json: Json = False,
    keys: Annotated[Flags | None, Parameter(name="*")] = None,
) -> int:
    """Train, then print the metrics of the test links."""
    from loginmea_fast.parallel import world
    from loginmea_fast.runs import RunDirectory, check_configuration, fit, load_pair, prepare_kernels
    from loginmea_fast.runs import plan as plan_memory
    from loginmea_fast.training.objectives import objective_weights

    there = world()
    if not there.leads:
        quiet = True
        warnings.simplefilter("ignore")
        log.setLevel(logging.ERROR)
    if (
        resume is None
        and out is not None
        and there.restarted
        and os.path.isfile(os.path.join(out, "config.toml"))
    ):
        resume, out, config, keys, path = out, None, None, None, None  # what torchrun starts again goes on
    given = keys_given(keys) | ({} if path is None else {"path": path})
    if resume is not None:
        for name, value in (("--out", out), ("--config", config)):
            if value is not None:
                raise ConfigError(f"--resume takes the configuration of the run; leave {name} out")
        run = RunDirectory.open(resume, there.leads)
        changes = run.moved(given)
        configuration = run.config.override(**changes)
        run.check_resumable(configuration)
    else:
        changes, configuration = {}, Config.load(config, given) if config is not None else Config(**given)
    objective_weights(configuration)
    if print_config:
        if there.leads:
            print(configuration.to_toml(), end="")
        return 0
    if configuration.path is None:
        raise ConfigError(
            "train needs a data set; name its directory, or 'embedded' for the pair inside the package"
        )
    check_configuration(configuration, out, resume is not None)
    if resume is not None:
        run.check_data(configuration)
    pair = there.together(lambda: load_pair(configuration))
    tell(pair, quiet)
    if plan:
        found = plan_memory(pair, configuration)
        if there.leads:
            print(
                json.dumps({**asdict(found), "peak": found.peak}, indent=2) if as_json else found.describe()
            )
        return 0
    prepare_kernels(configuration)
    started = time.perf_counter()
    where = resume or out or there.first(partial(fresh_run_directory, pair.name))
    handed = [pair]
    del pair  # of several processes each then keeps its part of the data alone
    result = fit(
        handed.pop(),
        None if resume else configuration,
        where,
        resume=resume is not None,
        progress=not quiet,
        **changes,
    )
    seconds = time.perf_counter() - started
    epochs = [record for record in result.history if record["event"] == "epoch"]
    answer = {
        "run": str(where),
        "epochs": len(epochs),
        "epoch": result.epoch,
        "best_epoch": result.best_epoch,
        "seconds": round(seconds, 2),
        "peak_memory": max((record["peak_memory"] for record in epochs), default=0),
        "step_memory": max((record["step_memory"] for record in epochs), default=0),
        "validation": result.history[-1].get("validation", {}),
        "metrics": result.metrics,
    }
    if there.leads:
        print(json.dumps(answer, indent=2) if as_json else _describe(answer))
    return 0


def _describe(answer: dict) -> str:
    mebibytes = 2**20
    chosen = described_epoch(answer["epoch"], answer["best_epoch"], answer["epochs"])
    validation = ""
    if scores := answer["validation"]:
        found = f"Hits@1 {scores['hits@1']:.3f}, MRR {scores['mrr']:.3f}"
        validation = f"validation links, both ways, among {scores['candidates']:,} candidates: {found}\n"
    return (
        f"{describe_metrics(answer['metrics'])}\n\n{validation}"
        f"{chosen}; {answer['seconds']:.0f} s; peak memory "
        f"{answer['peak_memory'] / mebibytes:,.0f} MiB, of which a training step took "
        f"{answer['step_memory'] / mebibytes:,.0f} MiB\n"
        f"run directory: {answer['run']}\n"
        f"again at any time: loginmea-fast evaluate {shlex.quote(answer['run'])}"
    )
