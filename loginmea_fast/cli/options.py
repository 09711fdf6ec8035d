"""Flags that several commands share. Those of configuration keys are made from the keys; each is short for `--set`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypedDict

from cyclopts import Group, Parameter

from loginmea_fast.training.keys import KEYS, Key
from loginmea_fast.training.spelling import parse_overrides

__all__ = ["Json", "RightGraph", "flag_of", "key_flags", "key_help", "keys_given", "rewrite_set"]

Json = Annotated[
    bool,
    Parameter(
        name="--json",
        negative="",
        show_default=False,
        help="print the answer as JSON, and nothing else, on stdout",
    ),
]

RightGraph = Annotated[
    str | None, Parameter(name="RIGHT", metavar="RIGHT", help="file or directory of the right graph")
]

_METAVARS = {int: "N", float: "X", tuple: "LIST", dict: "MODALITY=FILE"}
_GROUPS = {
    section: Group(f"Configuration, {section}", sort_key=place)
    for place, section in enumerate(dict.fromkeys(key.section for key in KEYS.values()), 1)
}


def flag_of(name: str) -> str:
    """How the command line spells a configuration key."""
    return "--" + name.replace("_", "-")


def key_help(key: Key) -> str:
    """Meaning, values and default of a key, for `--help`."""
    told = [key.meaning]
    if key.kind in (int, float):
        told.append(key.expected.removeprefix("a "))
    if key.kind is dict:
        told.append("may be repeated")
    if key.kind is tuple:
        told.append("by commas")
    if key.default is not None:
        told.append(f"default: {str(key.default).lower() if key.kind is bool else key.default}")
    return "; ".join(told)


def key_flags(names: Iterable[str]) -> Any:
    """A parameter type with a flag for each configuration key, in the group of its section.

    Values stay text, for `keys_given` to read: a flag, `--set` and the file then mean the same and fail alike.
    """
    flags = {}
    for name in names:
        key = KEYS[name]
        shared: dict[str, Any] = {
            "help": key_help(key),
            "group": _GROUPS[key.section],
            "allow_repeating": True,
        }
        if key.kind is bool:
            negative = flag_of(f"no_{name}")
            flags[name] = Annotated[bool, Parameter(negative=negative, show_default=False, **shared)]
        else:
            metavar = "|".join(key.choices) or _METAVARS.get(key.kind, "NAME")
            # Text, whatever the key's type; a list where repeating adds, else the last one wins.
            kind: Any = list[str] if key.kind is dict else str
            flags[name] = Annotated[kind, Parameter(negative="", metavar=metavar, **shared)]
    make: Any = TypedDict  # type checkers want one that is written out
    return make("Flags", flags, total=False)


def keys_given(flags: Mapping[str, Any] | None) -> dict[str, Any]:
    """Keys and values of the flags that were given; of a repeated one the last, of `--vectors` all.

    Raises:
        ConfigError: a value of another type.
    """
    values: dict[str, Any] = {}
    for name, given in (flags or {}).items():
        if isinstance(given, bool):
            values[name] = given
        else:
            text = ",".join(given) if isinstance(given, list) else given
            values.update(parse_overrides([f"{name}={text}"]))
    return values


def rewrite_set(argv: Iterable[str]) -> list[str]:
    """`--set lr=1` as `--lr=1`: flags and `--set` then follow one order, in which the last one wins.

    Raises:
        ConfigError: no `key=value`, or an unknown key.
    """
    rewritten: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--set":
            text = next(words, None)
        elif word.startswith("--set="):
            text = word.removeprefix("--set=")
        else:
            rewritten.append(word)
            continue
        if text is None:
            return [*rewritten, "--set"]  # for the parser to complain of
        parse_overrides([text])
        name, _, value = text.partition("=")
        name = name.strip().rpartition(".")[2]
        rewritten.append(f"{flag_of(name)}={value.strip()}")
    return rewritten
