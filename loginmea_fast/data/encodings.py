"""Which encoding a text is in that has no byte order mark: told where its bytes decide it, else what it may be.

UTF-8 is told by being valid. UTF-16 and UTF-32 are told by their zero bytes, which every tab, line feed and digit has.
Older encodings are not told but guessed at: many decode as each other, so the error shows how the text would read.
"""

from __future__ import annotations

import codecs
import math
import re
import shlex
import unicodedata

__all__ = ["likely_encoding", "not_utf8", "unmarked_encodings"]

_WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
_SPACES = "\t\n\r"
# First bytes of what everyday text is written with (frequent ideographs, kana, Hangul), and characters of each.
_EVERYDAY = {
    "GB18030": ("gb2312", range(0xB0, 0xD8), 94),
    "BIG5": ("big5", range(0xA4, 0xC7), 157),
    "SHIFT_JIS": ("shift_jis", (0x82, 0x83, *range(0x88, 0x98)), 188),
    "EUC-JP": ("euc_jp", (0xA4, 0xA5, *range(0xB0, 0xD0)), 94),
    "EUC-KR": ("euc_kr", range(0xB0, 0xC9), 94),
}
_RARE = 100_000  # characters, one of which is as surprising as that
_LATIN = "WINDOWS-1252"
_SHOWN = 3
_SAMPLE = 24  # characters of a text that show how it reads


def unmarked_encodings(head: bytes) -> list[str]:
    """The encodings that the beginning of a text may be in, by Python's names: one, or two that are as likely.

    Args:
        head: its first bytes, without a byte order mark.
    """
    zeros = head.count(b"\0")
    if not zeros:
        return ["utf-8"]
    texts = {encoding: _begin(head, encoding) or "" for encoding in _WIDE}
    if 3 * zeros < len(head) and _begin(head, "utf-8") is not None:
        # Text with a stray zero byte reads as ideographs too, but loses its tabs and line feeds.
        ends = _ends(head.decode("latin1"))
        texts = {name: text for name, text in texts.items() if 2 * _ends(text) > ends}
    ascii_characters = {encoding: _plain(text) for encoding, text in texts.items()}
    best = max(ascii_characters.values(), default=0)
    # With the bytes turned round a tab is no tab, and few characters happen to be ASCII.
    likely = [encoding for encoding, count in ascii_characters.items() if 2 * count > best]
    return likely or ["utf-8"]


def not_utf8(text: bytes, line: bytes, name: str) -> str:
    """What a text that is not UTF-8 may be, and how to convert it: the end of an error.

    Args:
        text: whole lines of it.
        line: the first that is not UTF-8.
        name: of the file, for the command.
    """
    kept = text.decode("utf-8", "replace")
    damaged = kept.count("\ufffd")
    if sum(character > "\x7f" for character in kept) - damaged > 4 * damaged:
        return "its other lines are, so this one is damaged; correct it"
    shown = next(field for field in line.split(b"\t") if not field.isascii())
    reads = {encoding: shown.decode(_EVERYDAY[encoding][0], "replace") for encoding in _multibyte(text)}
    if _decodes(text, "cp1252") and _decodes(shown, "cp1252"):
        reads[_LATIN] = shown.decode("cp1252")
    if not reads:
        return "and no other encoding that is known here; convert the file to UTF-8"
    told = ", as ".join(f"{encoding} {_excerpt(reading)!r}" for encoding, reading in reads.items())
    command = f"iconv -f {next(iter(reads))} -t UTF-8 {shlex.quote(name)} > {shlex.quote(name + '.utf8')}"
    return f"it would read as {told}; convert it from what reads right, such as by {command}"


def likely_encoding(text: bytes) -> str:
    """The name of an encoding as which a text that is not UTF-8 reads, the likeliest; "" where none is known."""
    found = _multibyte(text)
    return found[0] if found else _LATIN if _decodes(text, "cp1252") else ""


def _excerpt(reading: str) -> str:
    """What stands around its first character that is not ASCII."""
    first = next((place for place, character in enumerate(reading) if character > "\x7f"), 0)
    start = max(0, first - _SAMPLE // 3)
    return reading[start : start + _SAMPLE]


def _multibyte(text: bytes) -> list[str]:
    """Encodings of several bytes a character as which a text is everyday text, the likeliest first."""
    surprise = {}  # of the text, were its characters drawn evenly: an encoding with fewer of them explains more
    for name, (encoding, everyday, size) in _EVERYDAY.items():
        codec = "gb18030" if name == "GB18030" else encoding
        if not _decodes(text, codec):
            continue
        foreign = re.sub(r"[\x00-\x7f]", "", text.decode(codec))
        usual = sum(raw[0] in everyday for c in foreign if len(raw := c.encode(encoding, "ignore")) > 1)
        if usual > 0.7 * len(foreign):
            rare = len(foreign) - usual
            surprise[name] = usual * math.log(size * len(everyday)) + rare * math.log(_RARE)
    return sorted(surprise, key=lambda name: surprise[name])[:_SHOWN]


def _decodes(text: bytes, encoding: str) -> bool:
    try:
        text.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _begin(head: bytes, encoding: str) -> str | None:
    """The text of its first bytes, the last of which may be cut."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return None


def _ends(text: str) -> int:
    return text.count("\t") + text.count("\n")


def _plain(text: str) -> int:
    """How many ASCII characters a text has, 0 if it is none: some of its characters stand for nothing."""
    none = sum(unicodedata.category(c) in ("Cc", "Cn", "Co") and c not in _SPACES for c in text)
    return sum(character < "\x80" for character in text) if 50 * none <= len(text) else 0
