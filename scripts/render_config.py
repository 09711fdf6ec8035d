"""Writes the table of configuration keys in docs/training.md from the Config class."""

from __future__ import annotations

import dataclasses
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
    kinds = [kind for kind in (typing.get_args(hint) or (hint,)) if kind is not type(None)]
    if typing.get_origin(hint) is typing.Literal or typing.get_origin(kinds[0]) is typing.Literal:
        choices = typing.get_args(hint if typing.get_origin(hint) is typing.Literal else kinds[0])
        return ", ".join(f"`{choice}`" for choice in choices)
    if typing.get_origin(kinds[0]) is tuple or typing.get_origin(hint) is tuple:
        return "list of names"
    name = {bool: "true, false", str: "text", int: "whole number", float: "number"}[kinds[0]]
    low, high = limits["low"], limits["high"]
    if low is None:
        return name
    below, above = ("above", "below") if limits["open"] else ("from", "to")
    return f"{name} {below} {low}" + ("" if high is None else f" {above} {high}")


def show(value: object) -> str:
    """A default as TOML spells it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    changed = render_into(ROOT / "docs" / "training.md", "config", config_table())
    print("docs/training.md", "written" if changed else "is up to date")
