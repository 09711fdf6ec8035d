"""Keys and values as people write them: TOML in sections, `key=value`; an unknown key is told the near one."""

from __future__ import annotations

import codecs
import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from loginmea_fast.errors import ConfigError
from loginmea_fast.training.keys import KEYS, SECTIONS, Key, parse_vectors

__all__ = ["check_known", "flatten", "parse_overrides", "read_toml", "toml_item"]


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Flat keys and values of a TOML configuration file, in UTF-8 or, with its mark at the beginning, UTF-16.

    Raises:
        ConfigError: the file is missing or no TOML, or holds an unknown key.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file; check the path") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name a readable TOML file") from None
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        tables = tomllib.loads(content.decode("utf-16" if wide else "utf-8-sig").replace("\r\n", "\n"))
    except UnicodeDecodeError as error:
        line, encoding = content.count(b"\n", 0, error.start) + 1, "UTF-16" if wide else "UTF-8"
        raise ConfigError(f"{path}, line {line}: not valid {encoding}; save the file as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        remedy = "save the file as UTF-8" if b"\0" in content else "correct the line"
        raise ConfigError(f"{path}: not valid TOML ({error}); {remedy}") from None
    try:
        return flatten(tables)
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
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{text!r} is not key=value; write for example lr=0.001")
        section, dot, name = name.strip().rpartition(".")
        check_known(name, section if dot else None)
        values[name] = _parse(KEYS[name], value.strip())
    return values


def check_known(name: str, section: str | None = None) -> None:
    """Raise `ConfigError`, with the near name, unless `name` is a key, and of `section` where one is given."""
    if name not in KEYS:
        near = difflib.get_close_matches(name, list(KEYS), 1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(KEYS)}"
        raise ConfigError(f"unknown configuration key {name!r}; {hint}")
    belongs = KEYS[name].section
    if section is not None and section != belongs:
        raise ConfigError(
            f"configuration key {name!r} belongs to [{belongs}], not [{section}]; move it there"
        )


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keys and values without sections, of those that are flat or in sections.

    Raises:
        ConfigError: an unknown section or key, or a key in another section than its own.
    """
    flat = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and name not in KEYS:
            if name not in SECTIONS:
                near = difflib.get_close_matches(name, SECTIONS, 1, cutoff=0.5)
                hint = f"did you mean [{near[0]}]?" if near else f"the sections are {', '.join(SECTIONS)}"
                raise ConfigError(f"unknown configuration section [{name}]; {hint}")
            for inner, inner_value in value.items():
                check_known(inner, name)
                flat[inner] = inner_value
        else:
            check_known(name)
            flat[name] = value
    return flat


def _parse(key: Key, text: str) -> Any:
    """The value of `key` that a command line spells as `text`."""
    if key.optional and text.lower() in ("none", ""):
        return None
    if key.kind in (str, Literal):
        return text.strip("\"'")
    if key.kind is float and re.fullmatch(
        r"[+-]?(\d*\.\d+|\d+\.?)", text
    ):  # TOML wants a digit on both sides
        return float(text)
    bracketed = key.kind in (tuple, dict) and text.startswith(("[", "{"))
    if key.kind is tuple and not bracketed:
        return tuple(part.strip().strip("\"'") for part in text.split(",") if part.strip())
    if key.kind is dict and not bracketed:
        # A comma begins an entry only where a name follows it: files may have commas in their names.
        return parse_vectors(re.split(r",(?=\w+=)", text))
    try:
        return tomllib.loads(f"value = {text if bracketed else text.lower()}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def toml_item(value: Any) -> Any:
    """A value as tomlkit writes it."""
    import tomlkit

    if isinstance(value, tuple):
        return tomlkit.item(list(value))
    if isinstance(value, dict):
        table = tomlkit.inline_table()
        table.update({name: toml_item(inner) for name, inner in value.items()})
        return table
    return tomlkit.item(value)
