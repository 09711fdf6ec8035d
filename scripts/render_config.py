"""Writes the table of configuration keys in docs/training.md from the Config class."""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path

from markers import render_into

from loginmea_fast.training.config import AUTHORS, Config

ROOT = Path(__file__).resolve().parents[1]


def config_table() -> str:
    """A markdown table a section: key, values, default, default under compat="authors", meaning."""
    hints = typing.get_type_hints(Config)
    sections: dict[str, list[str]] = {}
    for field in dataclasses.fields(Config):
        authors = f"`{show(AUTHORS[field.name])}`" if field.name in AUTHORS else ""
        cells = [
            f"`{field.name}`",
            values(hints[field.name], field.metadata),
            f"`{show(field.default)}`" if field.default is not None else "unset",
            authors,
            field.metadata["meaning"],
        ]
        sections.setdefault(field.metadata["section"], []).append("| " + " | ".join(cells) + " |")
    head = "| key | values | default | `authors` | meaning |\n|---|---|---|---|---|"
    return "\n\n".join("\n".join([f"**[{name}]**", "", head, *rows]) for name, rows in sections.items())


def values(hint: object, limits: typing.Mapping[str, typing.Any]) -> str:
    """What a key may hold, in words."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kind = next(k for k in typing.get_args(hint) if k is not type(None)) if union else hint
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return "list of names"
    name = {bool: "true, false", str: "text", int: "whole number", float: "number"}[kind]
    low, high = limits["low"], limits["high"]
    if low is None:
        return name
    if high is None:
        return f"{name} {'above' if limits['open'] else 'from'} {low}"
    return f"{name} between {low} and {high}" if limits["open"] else f"{name} from {low} to {high}"


def show(value: object) -> str:
    """A default as TOML spells it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    changed = render_into(ROOT / "docs" / "training.md", "config", config_table())
    print("docs/training.md", "written" if changed else "is up to date")
