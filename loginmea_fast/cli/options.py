"""Options that several commands share. Each configuration flag is short for a `--set key=value`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loginmea_fast.training import Config

__all__ = ["add_json", "add_keys", "add_set", "build_config", "flag_of"]

_FLAGS = {
    "modalities": ("LIST", "modalities to use, by commas, for example relation,attribute,image"),
    "format": ("NAME", "layout of DIR: dbp15k or openea; recognised by its files if not given"),
    "vectors": ("LIST", "files of vectors, by commas, for example image=pictures.npz"),
    "fold": ("N", "which of OpenEA's prepared splits to use"),
    "seed_ratio": ("SHARE", "share of the links that is known; default: the official split, else 0.3"),
    "epochs": ("N", "epochs to train"),
    "batch_size": ("N", "links that are told apart from each other in the loss"),
    "lr": ("RATE", "highest learning rate"),
    "hidden_dim": ("N", "width of every embedding"),
    "rank": ("N", "rank of the low-rank interaction of modalities"),
    "depth": ("N", "attention layers"),
    "patience": ("N", "validations without progress before training stops; 0: never"),
    "compat": ("NAME", "authors: the training procedure of the authors' code"),
    "csls_k": ("K", "neighbours of CSLS; 0: rank by cosine alone"),
    "candidates": ("SET", "rank among the test targets (test) or among all entities (all)"),
    "decoder": ("NAME", "report this decoder beside cosine and CSLS: mutual, one_to_one, sinkhorn, or all"),
    "seed": ("N", "seed of the split, the parameters and the order of links"),
    "device": ("NAME", "auto, cpu, cuda or cuda:N"),
    "dtype": ("NAME", "float32 or bfloat16; parameters stay float32"),
    "backend": ("NAME", "backend of the operators: auto, reference, cpu, triton or cuda"),
    "threads": ("N", "CPU threads"),
}
_SWITCHES = {
    "bootstrap": "mutual nearest neighbours become training links as training goes on",
    "compile": "torch.compile the model",
}


def flag_of(key: str) -> str:
    """How the command line spells a configuration key."""
    return "--" + key.replace("_", "-") if key in _FLAGS or key in _SWITCHES else f"--set {key}=..."


def add_keys(parser: argparse.ArgumentParser, *keys: str) -> None:
    """Give `parser` a flag for each configuration key; all collect `key=value` in `args.overrides`, in order."""
    for key in keys:
        flag = flag_of(key)
        if key in _SWITCHES:
            parser.add_argument(
                flag,
                dest="overrides",
                action="append_const",
                const=f"{key}=true",
                help=_SWITCHES[key],
            )
            continue
        metavar, meaning = _FLAGS[key]
        parser.add_argument(
            flag,
            dest="overrides",
            action="append",
            type=(key + "={}").format,
            metavar=metavar,
            help=meaning,
        )


def add_set(parser: argparse.ArgumentParser) -> None:
    """`--config FILE` and `--set key=value`."""
    parser.add_argument(
        "--config", metavar="FILE", help="TOML file with configuration keys; flags and --set win"
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        metavar="KEY=VALUE",
        help="any configuration key, for example --set weight_decay=0; repeatable, the last one wins",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument(
        "--json", action="store_true", help="print the answer as JSON, and nothing else, on stdout"
    )


def build_config(args: argparse.Namespace, **given: object) -> Config:
    """The configuration of `--config`, then `given`, then flags and `--set` in their order.

    Raises:
        ConfigError: an unknown key or a wrong value.
    """
    from loginmea_fast.training.config import Config, parse_overrides, read_toml

    values = read_toml(args.config) if args.config else {}
    return Config.build({**values, **given, **parse_overrides(args.overrides or [])})
