"""The keys of a configuration: section, default, range and meaning of each stand in its line here and nowhere else.

The command line, the comments of config.toml, the tables of docs/training.md and every error are made from that line.
"""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo

from loginmea_fast.errors import ConfigError

__all__ = ["KEYS", "SECTIONS", "ConfigKeys", "Key", "parse_vectors"]


def _key(section: str, default: Any, meaning: str, **limits: Any) -> Any:
    """A key: where it stands in the file, what it is unless given, what it means; limits are gt, ge, lt and le."""
    return Field(default, description=meaning, json_schema_extra={"section": section}, **limits)


def _text(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _names(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _files(value: object) -> object:
    """Modality -> file or files; the list of 'modality=file' that earlier versions wrote is read as well."""
    if isinstance(value, (list, tuple)):
        return parse_vectors(value)
    if isinstance(value, Mapping):
        return {
            name: tuple(map(_text, files)) if isinstance(files, (list, tuple)) else _text(files)
            for name, files in value.items()
        }
    return value


def _not_empty(value: Any) -> Any:
    """`Field(min_length=1)` refuses None, which means "not set", with a TypeError."""
    if value is not None and not value:
        raise ValueError("empty")
    return value


_Word = Annotated[str, Field(min_length=1)]
_Text = Annotated[str, BeforeValidator(_text)]
_OptionalText = Annotated[str | None, BeforeValidator(_text)]
_Names = Annotated[tuple[_Word, ...] | None, BeforeValidator(_names), AfterValidator(_not_empty)]
_Files = Annotated[
    dict[_Word, _Word | Annotated[tuple[_Word, ...], Field(min_length=1)]] | None,
    BeforeValidator(_files),
    AfterValidator(_not_empty),
]


class ConfigKeys(BaseModel):
    """Every key of `Config`, a line each."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    # What is read.
    path: _OptionalText = _key("data", None, "directory of the data set, or 'embedded'")
    format: _Text = _key("data", "auto", "layout of the directory; 'auto' looks at what is there")
    modalities: _Names = _key("data", None, "modalities to use; unset: all that the data has")
    vectors: _Files = _key("data", None, "files of vectors by modality, beside those in the directory")
    bags: Literal["types", "counts"] = _key(
        "data",
        "types",
        "what bags of relations say: which lead from an entity and to it, or how often each meets it",
    )
    bag_size: int | None = _key(
        "data", None, "relations and attribute types that bags keep, the most frequent; unset: all", ge=1
    )
    name_attributes: _Names = _key("data", None, "attributes whose values are the names of entities")
    fold: int = _key("data", 1, "which of OpenEA's prepared splits is the official one", ge=1)

    # Which links are known.
    seed_ratio: float | None = _key(
        "data",
        None,
        "share of the links that is known; unset: the official split, else 0.3; 1: all",
        gt=0,
        le=1,
    )
    valid_ratio: float = _key(
        "data", 0.05, "share of the known links kept for choosing the epoch", ge=0, le=0.9
    )
    split_seed: int | None = _key(
        "data", None, "seed of the split; unset: that of the run", ge=0, le=2**32 - 1
    )

    # The model.
    aggregation: Literal["channels", "fused", "both"] = _key(
        "model",
        "channels",
        "how modalities meet the graph: each through layers of its own, fused before them as in the paper, or both",
    )
    hidden_dim: int = _key("model", 64, "width d of every embedding", ge=1)
    members: int = _key(
        "model", 1, "models that are trained side by side, each from parameters of its own", ge=1
    )
    rank: int = _key("model", 8, "rank K of the low-rank interaction", ge=1)
    depth: int = _key("model", 2, "attention layers", ge=1)
    attention: Literal["relation", "triple"] = _key("model", "relation", "what the attention logits see")
    use_local_fusion: bool = _key("model", True, "interaction of the modalities of an entity")
    use_adaptive_weights: bool = _key("model", True, "attention over the modalities of an entity")
    use_low_rank: bool = _key("model", True, "low-rank products; off: the modalities are summed")
    use_global_aggregation: bool = _key("model", True, "relation-reflection layers over the fused modalities")
    use_graph_encoder: bool = _key("model", True, "structure embedding beside the modalities")
    scale_features: bool = _key(
        "model", True, "rows of sparse features are divided by their sums, of dense ones by their lengths"
    )
    missing: Literal["filled", "mask", "learned", "neighbors"] = _key(
        "model",
        "filled",
        "a modality that an entity lacks: the row that the reader filled in, no weight, a learned vector, or its "
        "neighbours' mean",
    )

    # Steps.
    preset: Literal["fast", "default", "best", "loginmea", "authors"] = _key(
        "training",
        "default",
        "what keys are that nobody gives: a trade of seconds for accuracy, or the paper's model, trained as here or as "
        "by its authors",
    )
    epochs: int = _key("training", 9, "epochs of a round; each sees all training links once", ge=1)
    updates: int = _key(
        "training", 5, "one update a batch, of which an epoch has at least so many; 0: one an epoch", ge=0
    )
    batch_size: int = _key("training", 1024, "links that are told apart from each other in the loss", ge=2)
    optimizer: Literal["rmsprop", "adamw"] = _key("training", "rmsprop", "RMSprop, or AdamW")
    lr: float = _key("training", 5e-3, "highest learning rate", gt=0)
    weight_decay: float = _key("training", 0.0, "decoupled weight decay of AdamW", ge=0)
    schedule: Literal["cosine", "constant"] = _key("training", "cosine", "learning rate over a round")
    warmup_epochs: int = _key("training", 0, "epochs of linear warm-up", ge=0)
    grad_clip: float = _key("training", 0.0, "largest norm of the gradient; 0: no clipping", ge=0)
    dropout: float = _key(
        "training", 0.2, "share of the embeddings' elements that an update drops", ge=0, lt=1
    )
    share_seeds: bool = _key(
        "training",
        True,
        "both entities of a training link have one embedding, which the update that tells them apart does not see",
    )

    init_from: _OptionalText = _key(
        "training", None, "run, or directory of save_pretrained, whose parameters the first round begins with"
    )

    # The objective.
    objectives: _Names = _key(
        "training",
        None,
        "losses that are summed, a weight after a colon where it is not 1; unset: hard_sample",
    )
    learned_weights: bool = _key("training", False, "weights of the losses' terms by learned uncertainty")
    temperature: float = _key("training", 0.1, "temperature tau of the contrastive losses", gt=0)
    bidirectional: bool = _key("training", True, "loss in both directions; off: left to right only")

    hard_scale: float = _key("training", 20.0, "scale lambda of the hard-sample loss", gt=0)
    hard_samples: int = _key("training", 2000, "further entities of each graph in the hard-sample loss", ge=0)

    # Bootstrapping.
    rounds: int = _key(
        "training",
        3,
        "further rounds of training from new parameters, each with links that the round before has proposed",
        ge=0,
    )
    certainty: float = _key(
        "training", 0.7, "probability above which a round proposes a mutual pair", ge=0, lt=1
    )
    bootstrap: bool = _key(
        "training", False, "within a round, pairs that stay mutual nearest neighbours become links"
    )
    bootstrap_start: int = _key("training", 20, "first epoch of a round that may propose links", ge=0)
    bootstrap_every: int = _key("training", 2, "epochs between proposals", ge=1)
    bootstrap_window: int = _key("training", 10, "rounds a pair must stay mutual before it joins", ge=1)
    partitions: int = _key(
        "training",
        0,
        "parts of the graph, found by METIS, between which updates pass no messages: an approximation that takes less "
        "memory; 0: the whole graph, exactly",
        ge=0,
    )
    max_comparisons: int = _key(
        "training",
        20_000_000_000,
        "pairs of entities that a validation or a proposal of bootstrapping compares; beyond it a sample of the links, "
        "or of graph 1, is asked about; 0: any number",
        ge=0,
    )

    # Beside the model.
    propagation: Literal["none", "late"] = _key(
        "training", "late", "'late': propagated labels of the training links stand beside the trained model"
    )
    propagation_width: int = _key("training", 1024, "columns of a propagated label", ge=1)
    late_names: bool = _key(
        "training",
        True,
        "modalities made of names stand beside the trained model, too, as they are",
    )
    late_pairs: bool = _key(
        "training",
        True,
        "with propagation='late': links that joined by bootstrapping have a label each of their own beside the trained "
        "model, too",
    )

    whitening: float = _key(
        "training",
        0.5,
        "power by which directions that most entities share are damped in what a run aligns by; 0: not",
        ge=0,
        le=1,
    )

    # Choosing the epoch.
    eval_every: int = _key(
        "training",
        0,
        "epochs between validations, each with a checkpoint; 0: at the end of a round alone, when the learning rate "
        "has come down",
        ge=0,
    )
    patience: int = _key(
        "training", 0, "validations without progress in a round before it ends; 0: never", ge=0
    )
    compat: Literal["authors"] | None = _key("training", None, "'authors': the procedure of their code")

    # Decoding.
    csls_k: int = _key("evaluation", 10, "neighbours of CSLS; 0: without", ge=0)
    candidates: Literal["test", "all"] = _key(
        "evaluation", "test", "rank among the test targets or among all entities"
    )
    decoder: _Text = _key(
        "evaluation", "csls", "how matches are found; reported beside cosine and CSLS; 'all': every decoder"
    )
    decoder_k: int = _key("evaluation", 50, "candidates of each entity, both ways, that a decoder sees", ge=1)

    # Where and how it runs.
    seed: int = _key(
        "run",
        0,
        "seed of the parameters, the order of links and, unless it has its own, the split",
        ge=0,
        le=2**32 - 1,
    )
    device: _Text = _key("run", "auto", "'auto', 'cpu', 'cuda' or 'cuda:N'")
    dtype: Literal["float32", "bfloat16"] = _key(
        "run", "float32", "precision of the computation; parameters stay float32"
    )
    backend: Literal["auto", "reference", "cpu", "triton", "cuda"] = _key(
        "run", "auto", "backend of the operators"
    )
    recompute: bool = _key(
        "run", False, "modalities are projected and fused again for the gradient: less memory, more time"
    )
    compile: bool = _key("run", False, "torch.compile the model")
    tensorboard: bool = _key("run", False, "write curves for TensorBoard into the run directory")
    threads: int | None = _key("run", None, "CPU threads; unset: as many as torch takes", ge=1)


def parse_vectors(entries: Iterable[str]) -> dict[str, str | tuple[str, ...]]:
    """`["image=a.npz", "text=b.npy", "text=c.npy"]` as modality -> file, or files where it is named more than once.

    Raises:
        ConfigError: an entry is not modality=file.
    """
    files: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        name, equals, file = entry.partition("=") if isinstance(entry, str) else ("", "", "")
        if not (name and equals and file):
            raise ConfigError(f"vectors must be entries 'modality=file'; got {entry!r}", "vectors")
        files[name] = (*files.get(name, ()), file)
    return {name: found if len(found) > 1 else found[0] for name, found in files.items()}


@dataclass(frozen=True)
class Key:
    """A key of `Config`, for whatever is generated from it.

    Attributes:
        name: as in the file and as an attribute of `Config`.
        section: its table in the file.
        kind: bool, int, float, str, tuple (names), dict (files), or Literal.
        choices: what a Literal may be, else nothing.
        optional: whether None is allowed, and means "not set".
        default: its value unless given.
        expected: what it takes, in words.
        meaning: what it does, in words.
    """

    name: str
    section: str
    kind: Any
    choices: tuple[str, ...]
    optional: bool
    default: Any
    expected: str
    meaning: str


def _describe(name: str, field: FieldInfo) -> Key:
    union = typing.get_origin(field.annotation) in (typing.Union, types.UnionType)
    parts = typing.get_args(field.annotation) if union else (field.annotation,)
    kind = next(part for part in parts if part is not types.NoneType)
    choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
    kind = typing.get_origin(kind) or kind
    words = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        tuple: "a list of names",
        dict: "a table of files by modality",
        Literal: ("one of " if len(choices) > 1 else "") + ", ".join(map(repr, choices)),
    }
    section: Any = (field.json_schema_extra or {})["section"]  # type: ignore[index]
    expected = words[kind] + (_range(field.metadata) if kind in (int, float) else "")
    optional = types.NoneType in parts
    return Key(name, section, kind, choices, optional, field.default, expected, field.description or "")


def _range(limits: Iterable[Any]) -> str:
    """`" of at least 1"`, `" above 0 and below 1"`, `" from 0 to 0.9"`: pydantic's limits in words."""
    words = {"gt": "above", "ge": "of at least", "lt": "below", "le": "of at most"}
    told = {kind: getattr(limit, kind) for limit in limits for kind in words if hasattr(limit, kind)}
    if told.keys() == {"ge", "le"}:
        return f" from {told['ge']} to {told['le']}"
    return (
        "".join(f" {words[kind]} {limit} and" for kind, limit in told.items())
        .removesuffix(" and")
        .replace(" and of", " and")
    )


KEYS: dict[str, Key] = {name: _describe(name, field) for name, field in ConfigKeys.model_fields.items()}
"""Every key, in the order of the file."""

SECTIONS = list(dict.fromkeys(key.section for key in KEYS.values()))
