"""A directory of data as readers see it: files by what they hold, and a word on every file that was not read."""

from __future__ import annotations

from pathlib import Path

from loginmea_fast.data.filekind import COMPRESSED_SUFFIXES, file_kind, is_clutter
from loginmea_fast.data.textfile import some_of
from loginmea_fast.data.vectors import SUFFIXES
from loginmea_fast.errors import DataError

__all__ = ["VECTOR_PREFIX", "DataDirectory", "is_document", "plain_name"]

VECTOR_PREFIX = "features_"

_TEXT_SUFFIXES = (".txt", ".tsv", ".csv")  # commas in the last are told where it is read
_PACKED_SUFFIXES = (*COMPRESSED_SUFFIXES, ".xz", ".zip")  # opening the last two says to unpack them
_DOCUMENTS = (
    ".md",
    ".rst",
    ".html",
    ".pdf",
    ".py",
    ".sh",
    ".ipynb",
    ".log",
    ".toml",
    ".yaml",
    ".yml",
    ".png",
    ".jpg",
)
_IMAGE_INDEX = "ImageIndex"  # MMKB's lists of uri and image, which are read with the vectors
_DOCUMENT_NAMES = ("readme", "license", "licence", "copying", "notice", "citation", "changelog", "makefile")


def plain_name(name: str) -> str:
    """The name of a file without what says how its text is stored: ``ent_ids_1.txt.gz`` is ``ent_ids_1``."""
    for suffixes in (_PACKED_SUFFIXES, _TEXT_SUFFIXES):
        for suffix in suffixes:
            if name.lower().endswith(suffix) and len(name) > len(suffix):
                name = name[: -len(suffix)]
                break
    return name


def is_document(name: str) -> bool:
    """Whether a file of this name is written for people or is a picture, and no data."""
    low = name.lower()
    return low.endswith(_DOCUMENTS) or low.startswith(_DOCUMENT_NAMES)


class DataDirectory:
    """The files of a directory by plain name; what archivers and editors leave behind is not among them.

    Attributes:
        path: the directory.
        notes: what readers tolerated or changed, one sentence each.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        self._files: dict[str, list[Path]] = {}
        self._read: set[str] = set()
        self._reasons: dict[str, str] = {}
        for entry in sorted(path.iterdir()):
            if not is_clutter(entry.name):
                self._files.setdefault(plain_name(entry.name), []).append(entry)

    def names(self) -> list[str]:
        """Plain names of everything that is there, sorted."""
        return sorted(self._files)

    def find(self, name: str) -> Path | None:
        """The file of that plain name, or None; from then on it counts as read.

        Raises:
            DataError: several files have that plain name.
        """
        files = self._files.get(name, [])
        if len(files) > 1:
            raise DataError(
                f"{self.path} holds {some_of(path.name for path in files)}, which are all {name!r}; remove all but one"
            )
        if not files:
            return None
        if name not in self._read:
            self._read.add(name)
            self._say_encoding(files[0])
        return files[0]

    def need(self, name: str) -> Path:
        """As :meth:`find`, but a path in any case: opening it says that it is missing."""
        return self.find(name) or self.path / name

    def skip(self, name: str, reason: str) -> None:
        """Marks a file as seen but not read, for a reason that the note on unread files gives."""
        self._reasons[name] = reason

    def unread(self) -> list[str]:
        """One note on the files that no reader read, or none; documents are no data, vectors are read elsewhere."""
        names = [
            name
            for name in self.names()
            if name not in self._read
            and not is_document(name)
            and not name.lower().endswith(SUFFIXES)
            and not name.endswith(_IMAGE_INDEX)
            and not name.lower().startswith(VECTOR_PREFIX)
        ]
        if not names:
            return []
        return [
            f"not read in {self.path.name}: "
            + some_of(f"{name} ({self._reasons.get(name, 'no file of this layout')})" for name in names)
        ]

    def _say_encoding(self, path: Path) -> None:
        try:
            encoding = file_kind(path).encoding
        except (OSError, DataError):
            return  # opening it to read says so
        if encoding != "utf-8":
            self.notes.append(f"{path.name} is {encoding.upper()}, read as such")
