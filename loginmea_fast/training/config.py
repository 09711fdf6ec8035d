"""The configuration of a run: a flat dataclass, TOML in sections, `key=value` overrides, and errors with a hint."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from loginmea_fast.errors import ConfigError

__all__ = ["Config"]

AUTHORS: dict[str, Any] = {
    "valid_ratio": 0.0,
    "epochs": 1000,
    "lr": 5e-4,
    "schedule": "constant",
    "warmup_epochs": 0,
    "grad_clip": 0.0,
    "bidirectional": False,
    "bootstrap": True,
    "bootstrap_start": 50,
    "bootstrap_every": 5,
    "eval_every": 50,
    "patience": 0,
    "csls_k": 3,
}
"""The values in the authors' `run_mmkb.sh` that differ from the defaults here."""


def _option(
    section: str,
    default: Any,
    meaning: str,
    low: float | None = None,
    high: float | None = None,
    open_range: bool = False,
) -> Any:
    return dataclasses.field(
        default=default,
        metadata={"section": section, "meaning": meaning, "low": low, "high": high, "open": open_range},
    )


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides a run; equal configurations on one machine give equal results, bit for bit.

    `Config.build` is the constructor for people: it checks keys and takes the authors' values under `compat="authors"`.
    Optional fields mean "not set" by None; every other switch is off at 0.
    """

    path: str | None = _option("data", None, "directory of the data set, or 'embedded'")
    format: str = _option("data", "auto", "layout of the directory; 'auto' looks at what is there")
    modalities: tuple[str, ...] | None = _option(
        "data", None, "modalities to use; unset: all that the data has"
    )
    vectors: tuple[str, ...] | None = _option(
        "data", None, "files of vectors, each as 'modality=file', beside those in the directory"
    )
    bag_size: int = _option("data", 1000, "relations and attribute types that bags keep", 1)
    fold: int = _option("data", 1, "which of OpenEA's prepared splits is the official one", 1)
    seed_ratio: float | None = _option(
        "data",
        None,
        "share of the links that is known; unset: the official split, else 0.3",
        0,
        1,
        open_range=True,
    )
    valid_ratio: float = _option("data", 0.05, "share of the known links kept for choosing the epoch", 0, 0.9)

    hidden_dim: int = _option("model", 300, "width d of every embedding", 1)
    rank: int = _option("model", 8, "rank K of the low-rank interaction", 1)
    depth: int = _option("model", 2, "attention layers", 1)
    attention: Literal["relation", "triple"] = _option("model", "relation", "what the attention logits see")
    use_local_fusion: bool = _option("model", True, "interaction of the modalities of an entity")
    use_adaptive_weights: bool = _option("model", True, "attention over the modalities of an entity")
    use_low_rank: bool = _option("model", True, "low-rank products; off: the modalities are summed")
    use_global_aggregation: bool = _option(
        "model", True, "relation-reflection layers over the fused modalities"
    )
    use_graph_encoder: bool = _option("model", True, "structure embedding beside the modalities")

    epochs: int = _option("training", 60, "epochs; each is one step over all training links", 1)
    batch_size: int = _option("training", 3500, "links that are told apart from each other in the loss", 2)
    lr: float = _option("training", 5e-3, "highest learning rate of AdamW", 0, open_range=True)
    weight_decay: float = _option("training", 0.01, "decoupled weight decay", 0)
    schedule: Literal["cosine", "constant"] = _option("training", "cosine", "learning rate over the epochs")
    warmup_epochs: int = _option("training", 5, "epochs of linear warm-up", 0)
    grad_clip: float = _option("training", 1.0, "largest norm of the gradient; 0: no clipping", 0)
    temperature: float = _option("training", 0.1, "temperature tau of the loss", 0, open_range=True)
    bidirectional: bool = _option("training", True, "loss in both directions; off: left to right only")
    bootstrap: bool = _option("training", False, "mutual nearest neighbours become training links")
    bootstrap_start: int = _option("training", 20, "first epoch that may propose links", 0)
    bootstrap_every: int = _option("training", 2, "epochs between proposals", 1)
    bootstrap_window: int = _option("training", 10, "rounds a pair must stay mutual before it joins", 1)
    eval_every: int = _option("training", 5, "epochs between validations, each with a checkpoint", 1)
    patience: int = _option("training", 0, "validations without progress before training stops; 0: never", 0)
    compat: Literal["authors"] | None = _option("training", None, "'authors': the procedure of their code")

    csls_k: int = _option("evaluation", 10, "neighbours of CSLS; 0: without", 0)
    candidates: Literal["test", "all"] = _option(
        "evaluation", "test", "rank among the test targets or among all entities"
    )

    seed: int = _option("run", 0, "seed of the split, the parameters and the order of links", 0, 2**32 - 1)
    device: str = _option("run", "auto", "'auto', 'cpu', 'cuda' or 'cuda:N'")
    dtype: Literal["float32", "bfloat16"] = _option(
        "run", "float32", "precision of the computation; parameters stay float32"
    )
    backend: Literal["auto", "reference", "cpu", "triton", "cuda"] = _option(
        "run", "auto", "backend of the operators"
    )
    compile: bool = _option("run", False, "torch.compile the model")
    threads: int | None = _option("run", None, "CPU threads; unset: as many as torch takes", 1)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(field, getattr(self, field.name)))
        if self.modalities is not None and len(set(self.modalities)) != len(self.modalities):
            raise ConfigError(f"modalities names one twice: {', '.join(self.modalities)}; name each once")
        for entry in self.vectors or ():
            if not all(entry.partition("=")):
                raise ConfigError(f"vectors must be entries 'modality=file'; got {entry!r}")
        if self.compat == "authors" and self.valid_ratio:
            raise ConfigError(
                "compat='authors' trains on every seed link and needs valid_ratio=0; "
                "Config.build(compat='authors') takes all of their values"
            )

    @classmethod
    def build(cls, values: Mapping[str, Any] | None = None, /, **more: Any) -> Config:
        """A configuration from keys and values; under `compat="authors"` what is not given comes from their script.

        Args:
            values: keys with values, flat or in sections as in the TOML file.
            more: the same, by keyword; these win.

        Raises:
            ConfigError: an unknown key (the near one is named) or a value of the wrong type or range.
        """
        given = {**_flatten(values or {}), **_flatten(more)}
        preset = AUTHORS if given.get("compat") == "authors" else {}
        return cls(**{**preset, **given})

    @classmethod
    def load(cls, path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> Config:
        """Read a TOML file, then apply `key=value` overrides.

        Raises:
            ConfigError: the file is missing or no TOML, or holds an unknown key or a wrong value; names file and key.
        """
        return cls.build({**read_toml(path), **parse_overrides(overrides)})

    def override(self, overrides: Iterable[str] = (), /, **values: Any) -> Config:
        """This configuration with `key=value` strings, then keywords, applied."""
        return dataclasses.replace(self, **{**parse_overrides(overrides), **_flatten(values)})

    def to_toml(self) -> str:
        """TOML text in sections, each key with its meaning; `Config.load` reads back an equal configuration."""
        sections: dict[str, list[str]] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            line = f"# {field.name} is unset" if value is None else f"{field.name} = {_toml_value(value)}"
            sections.setdefault(field.metadata["section"], []).append(
                f"{line}  # {field.metadata['meaning']}"
            )
        return "\n\n".join("\n".join([f"[{name}]", *lines]) for name, lines in sections.items()) + "\n"

    def as_dict(self) -> dict[str, Any]:
        """Flat, JSON-ready keys and values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def shape(self) -> dict[str, Any]:
        """The keys that the parameters of a model follow from, JSON-ready."""
        keys = {name for name, field in _FIELDS.items() if field.metadata["section"] == "model"}
        return {key: value for key, value in self.as_dict().items() if key in keys | {"modalities"}}


_FIELDS = {field.name: field for field in dataclasses.fields(Config)}
_TYPES = typing.get_type_hints(Config)
_SECTIONS = {field.metadata["section"] for field in _FIELDS.values()}


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Flat keys and values of a TOML configuration file.

    Raises:
        ConfigError: the file is missing or no TOML, or holds an unknown key.
    """
    try:
        with Path(path).open("rb") as file:
            tables = tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file; check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML ({error}); correct the line") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name a readable TOML file") from None
    try:
        return _flatten(tables)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """`["lr=0.001", "data.modalities=relation,attribute"]` as keys and typed values.

    A value is read as TOML where the key's type is not a string; `none` unsets an optional key.

    Raises:
        ConfigError: no `=`, an unknown key, or a value of another type.
    """
    values = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{text!r} is not key=value; write for example lr=0.001")
        section, dot, name = key.strip().rpartition(".")
        _known(name, section if dot else None)
        values[name] = _parse(name, value.strip())
    return values


def _known(name: str, section: str | None = None) -> None:
    if name not in _FIELDS:
        near = difflib.get_close_matches(name, list(_FIELDS), 1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(_FIELDS)}"
        raise ConfigError(f"unknown configuration key {name!r}; {hint}")
    belongs = _FIELDS[name].metadata["section"]
    if section is not None and section != belongs:
        raise ConfigError(
            f"configuration key {name!r} belongs to [{belongs}], not [{section}]; move it there"
        )


def _flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            if key not in _SECTIONS:
                near = difflib.get_close_matches(key, _SECTIONS, 1, cutoff=0.5)
                hint = (
                    f"did you mean [{near[0]}]?"
                    if near
                    else f"the sections are {', '.join(sorted(_SECTIONS))}"
                )
                raise ConfigError(f"unknown configuration section [{key}]; {hint}")
            for name, inner in value.items():
                _known(name, key)
                flat[name] = inner
        else:
            _known(key)
            flat[key] = value
    return flat


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _checked(field: dataclasses.Field[Any], value: Any) -> Any:
    """`value` as the field's type, or ConfigError that says what was expected."""
    name, hint = field.name, _TYPES[field.name]
    expected = "a value"
    for kind in _alternatives(hint):
        if kind is type(None):
            if value is None:
                return None
        elif typing.get_origin(kind) is Literal:
            choices = typing.get_args(kind)
            expected = "one of " + ", ".join(repr(choice) for choice in choices)
            if value in choices:
                return value
        elif typing.get_origin(kind) is tuple:
            expected = "a list of names"
            if (
                isinstance(value, (list, tuple))
                and value
                and all(isinstance(item, str) and item for item in value)
            ):
                return tuple(value)
        elif kind is bool:
            expected = "true or false"
            if isinstance(value, bool):
                return value
        elif kind is str:
            expected = "a string"
            if isinstance(value, (str, os.PathLike)):
                return os.fspath(value)
        else:
            expected = "a whole number" if kind is int else "a number"
            accepted = (int,) if kind is int else (int, float)
            if isinstance(value, accepted) and not isinstance(value, bool):
                return _in_range(field, kind(value))
    raise ConfigError(f"configuration key {name!r} must be {expected}; got {value!r}", name)


def _in_range(field: dataclasses.Field[Any], value: float) -> float:
    low, high, is_open = (field.metadata[key] for key in ("low", "high", "open"))
    too_low = low is not None and (value <= low if is_open else value < low)
    too_high = high is not None and (value >= high if is_open else value > high)
    if too_low or too_high or not math.isfinite(value):
        if high is not None:
            wanted = f"strictly between {low} and {high}" if is_open else f"between {low} and {high}"
        else:
            wanted = f"above {low}" if is_open else f"at least {low}"
        raise ConfigError(f"configuration key {field.name!r} must be {wanted}; got {value!r}", field.name)
    return value


def _parse(name: str, text: str) -> Any:
    """The value of `name` that a command line spells as `text`."""
    kinds = _alternatives(_TYPES[name])
    if type(None) in kinds and text.lower() in ("none", ""):
        return None
    if any(typing.get_origin(kind) is tuple for kind in kinds):
        return tuple(part.strip().strip("\"'") for part in text.strip("[]()").split(",") if part.strip())
    if any(kind is str or typing.get_origin(kind) is Literal for kind in kinds):
        return text.strip("\"'")
    try:
        return tomllib.loads(f"value = {text.lower()}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _toml_value(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, str):
        # JSON escapes what TOML's basic strings must escape, except DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)
