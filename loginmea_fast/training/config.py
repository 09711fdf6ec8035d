"""The configuration of a run: one frozen model, TOML in sections, `key=value` overrides, and errors with a hint."""

from __future__ import annotations

import os
import types
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError, model_validator

from loginmea_fast.errors import ConfigError
from loginmea_fast.training.keys import KEYS, SECTIONS, ConfigKeys
from loginmea_fast.training.presets import PRESET_KEYS, PRESETS
from loginmea_fast.training.spelling import check_known, flatten, parse_overrides, read_toml, toml_item

__all__ = ["Config"]


class Config(ConfigKeys):
    """Everything that decides a run; equal configurations on one machine give equal results, bit for bit.

    Keys that are not given come from `preset`, else from the defaults of `ConfigKeys`; `compat="authors"` is a preset
    too. `Config.build` also takes them in sections. Optional keys mean "not set" by None; every other switch is off at
    0.

    Raises:
        ConfigError: an unknown key (the near one is named) or a value of the wrong type or range.
    """

    if not TYPE_CHECKING:  # type checkers know the keys from the class

        def __init__(self, **values: Any) -> None:
            for name in values:
                check_known(name)
            name = values.get("preset")
            if values.get("compat") == "authors":
                if name not in (None, "authors"):
                    raise ConfigError(
                        f"compat='authors' is the preset 'authors', not {name!r}; leave one out", "preset"
                    )
                name = "authors"
            preset = {} if name is None else {**PRESETS.get(str(name), {}), "preset": name}
            # None is "not set", which a file cannot say of a key: the preset then says what it is.
            values = {key: value for key, value in values.items() if value is not None or key not in preset}
            try:
                super().__init__(**{**preset, **values})
            except ValidationError as error:
                raise _config_error(error, values) from None
            # What a preset filled in is not given: `override` may choose another.
            self.model_fields_set.intersection_update(values)

    @model_validator(mode="after")
    def _check_together(self) -> Config:
        if self.modalities is not None and len(set(self.modalities)) != len(self.modalities):
            raise ConfigError(f"modalities names one twice: {', '.join(self.modalities)}; name each once")
        if self.path == "embedded":
            if self.format not in ("auto", "dbp15k"):
                raise ConfigError("the embedded pair has one layout; leave format out", "format")
            if self.fold != 1:
                raise ConfigError("the embedded pair has no prepared splits; leave fold out", "fold")
        if self.device.partition(":")[0] == "mps":
            raise ConfigError(
                "device 'mps' is not supported: the operators have kernels for the CPU and for CUDA; use 'cpu'",
                "device",
            )
        if self.compat == "authors" and self.valid_ratio:
            raise ConfigError(
                "compat='authors' trains on every seed link and needs valid_ratio=0; leave valid_ratio out"
            )
        if self.compat == "authors" and self.seed_ratio == 1:
            raise ConfigError(
                "compat='authors' chooses the epoch by the test links, and seed_ratio=1 leaves none; lower seed_ratio",
                "seed_ratio",
            )
        if self.decoder != "csls":  # imports torch, which --help does without
            from loginmea_fast.evaluation.plans import chosen_decoders

            chosen_decoders(self.decoder)
        return self

    @property
    def total_epochs(self) -> int:
        """Epochs of all rounds."""
        return self.epochs * (1 + self.rounds)

    def beside_preset(self) -> list[str]:
        """`key=value` of each key that was given another value than the preset means; nothing without a preset.

        Keys of model and training, and what any preset sets besides: data, seeds and devices are no part of a recipe.
        """
        if self.preset == "default" and "preset" not in self.model_fields_set:
            return []
        preset = PRESETS[self.preset]
        return [
            f"{name}={getattr(self, name)}"
            for name, key in KEYS.items()
            if (key.section in ("model", "training") or name in PRESET_KEYS)
            and name in self.model_fields_set - {"preset"}
            and getattr(self, name) != preset.get(name, key.default)
        ]

    @property
    def loss_backend(self) -> str:
        """The backend of the losses, which have no CUDA kernels: under "cuda" the fastest that serves."""
        return "auto" if self.backend == "cuda" else self.backend

    @classmethod
    def build(cls, values: Mapping[str, Any] | None = None, /, **more: Any) -> Config:
        """A configuration from keys and values.

        Args:
            values: keys with values, flat or in sections as in the TOML file.
            more: the same, by keyword; these win.

        Raises:
            ConfigError: an unknown key (the near one is named) or a value of the wrong type or range.
        """
        return cls(**{**flatten(values or {}), **flatten(more)})

    @classmethod
    def of(cls, config: object, overrides: Mapping[str, Any] = types.MappingProxyType({})) -> Config:
        """The configuration that a caller gives, the defaults for None, with keywords applied.

        Raises:
            ConfigError: it is something else, or an override is wrong.
        """
        if config is None:
            return cls.build(overrides)
        if not isinstance(config, Config):
            raise ConfigError(
                f"config must be a Config, as Config.load(file) or Config.build(keys) gives it; "
                f"got {type(config).__name__}"
            )
        return config.override(**overrides)

    @classmethod
    def load(cls, path: str | os.PathLike[str], overrides: Iterable[str] | Mapping[str, Any] = ()) -> Config:
        """Read a TOML file, then apply overrides: `key=value` strings, or keys and values.

        Raises:
            ConfigError: the file is missing or no TOML, or holds an unknown key or a wrong value; names file and key.
        """
        changes = flatten(overrides) if isinstance(overrides, Mapping) else parse_overrides(overrides)
        values = read_toml(path)
        try:
            return cls(**{**values, **changes})
        except ConfigError as error:
            if error.key in values.keys() - changes.keys():
                raise ConfigError(f"{path}: {error}", error.key) from None
            raise

    def override(self, overrides: Iterable[str] = (), /, **values: Any) -> Config:
        """This configuration with `key=value` strings, then keywords, applied; a preset fills what nobody gave."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self)(**{**given, **parse_overrides(overrides), **flatten(values)})

    def to_toml(self) -> str:
        """TOML text in sections, each key with its meaning; `Config.load` reads back an equal configuration."""
        import tomlkit  # nobody but a writer waits for it

        document = tomlkit.document()
        for section in SECTIONS:
            table = tomlkit.table()
            for key in (key for key in KEYS.values() if key.section == section):
                value = getattr(self, key.name)
                if value is None:
                    table.add(tomlkit.comment(f"{key.name} is unset # {key.meaning}"))
                else:
                    table.add(key.name, toml_item(value).comment(key.meaning))
            document.add(section, table)
        return tomlkit.dumps(document)

    def as_dict(self) -> dict[str, Any]:
        """Flat, JSON-ready keys and values."""
        return self.model_dump(mode="json")

    def shape(self) -> dict[str, Any]:
        """The keys that the parameters of a model follow from, JSON-ready."""
        names = {key.name for key in KEYS.values() if key.section == "model"}
        return self.model_dump(mode="json", include=names | {"modalities"})


def _config_error(error: ValidationError, values: Mapping[str, Any]) -> ConfigError:
    """The first of pydantic's complaints about `values` as one sentence about the key."""
    first = error.errors(include_url=False)[0]
    ours = first.get("ctx", {}).get("error")
    if isinstance(ours, ConfigError):
        return ours
    key = KEYS[str(first["loc"][0])]
    shown = repr(values[key.name])
    shown = shown if len(shown) <= 200 else f"{shown[:200]}..."
    return ConfigError(f"configuration key {key.name!r} must be {key.expected}; got {shown}", key.name)
