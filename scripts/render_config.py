"""Writes the table of configuration keys in docs/training.md from the Config class."""

from __future__ import annotations

from pathlib import Path

from markers import render_into, table

from loginmea_fast.training.keys import KEYS, Key
from loginmea_fast.training.presets import PRESETS

ROOT = Path(__file__).resolve().parents[1]


def config_table() -> str:
    """A markdown table a section: key, values, default, default under each preset, meaning."""
    sections: dict[str, list[list[str]]] = {}
    for key in KEYS.values():
        presets = [f"`{show(values[key.name])}`" if key.name in values else "" for values in PRESETS.values()]
        cells = [f"`{key.name}`", values(key), f"`{show(key.default)}`", *presets, key.meaning]
        sections.setdefault(key.section, []).append(cells)
    columns = " | ".join(["key", "values", "default", *(f"`{name}`" for name in PRESETS), "meaning"])
    return "\n\n".join(table(f"**[{name}]**", columns, rows) for name, rows in sections.items())


def values(key: Key) -> str:
    """What a key may hold, in words."""
    return ", ".join(f"`{choice}`" for choice in key.choices) or key.expected.removeprefix("a ")


def show(value: object) -> str:
    """A default as TOML spells it."""
    if value is None:
        return "unset"
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    changed = render_into(ROOT / "docs" / "training.md", "config", config_table())
    print("docs/training.md", "written" if changed else "is up to date")
