"""A folder of pictures as vectors: colours, their places and edges, from pixels alone, without a trained network."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from loginmea_fast.data.filekind import is_clutter
from loginmea_fast.errors import DataError

__all__ = ["IMAGE_SUFFIXES", "image_files", "image_statistics", "read_images", "thumbnail"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff")
_SIDE = 64  # pixels to which a picture is brought: what is finer is noise here
_GRID = (6, 4)  # cells of mean colours, across and down
_CELLS = 4  # cells of edges, each way
_DIRECTIONS = 8
_LEVELS = 4  # of each colour in the histogram
_SMALL = 96  # pixels of the longer side of a thumbnail
_QUALITIES = (75, 50, 25)  # of a JPEG, until it is small enough


def image_files(folder: Path) -> list[Path]:
    """The pictures in a folder and in folders inside it, one an entity as a rule, sorted."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(is_clutter(part) for part in path.relative_to(folder).parts)
    )


def read_images(folder: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Vectors of the pictures in a folder.

    Args:
        folder: pictures named by the entity's uri, name or id (percent escapes stand for what no file name may hold;
            ``_0``, ``_1`` and so on number several of one), or a folder of pictures an entity.

    Returns:
        Path inside the folder -> float32 vector of :func:`image_statistics`; and the files that are no pictures.

    Raises:
        DataError: Pillow is missing, or no file is a picture.
    """
    try:
        from PIL import Image
    except ImportError:
        raise DataError("pictures need Pillow; pip install pillow") from None
    broken = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning)
    vectors: dict[str, np.ndarray] = {}
    damaged: list[str] = []
    files = image_files(folder)
    for path in files:
        name = path.relative_to(folder).as_posix()
        try:
            with _opaque(path, _SIDE) as picture:
                small = picture.resize((_SIDE, _SIDE), Image.Resampling.BOX)
            vectors[name] = image_statistics(np.asarray(small))
        except broken:
            damaged.append(name)
    if not vectors:
        raise DataError(
            f"{folder} holds no picture that can be read ({len(damaged):,} files are damaged); pictures end in "
            f"{', '.join(IMAGE_SUFFIXES)}"
        )
    return vectors, tuple(damaged)


@contextmanager
def _opaque(path: Path, side: int) -> Iterator[Any]:
    """A picture on white, read no finer than `side` asks for; one that would fill the memory fails."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as picture:
            picture.draft("RGB", (side, side))
            flat = Image.new("RGB", picture.size, "white")  # behind what is transparent
            whole = picture.convert("RGBA")
            flat.paste(whole, mask=whole.getchannel("A"))
            yield flat


def thumbnail(path: Path, most: int) -> bytes | None:
    """A JPEG of at most 96 pixels each way and `most` bytes; None of what is none, or not so small."""
    from PIL import Image

    broken = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        with _opaque(path, _SMALL) as picture:
            picture.thumbnail((_SMALL, _SMALL))
            for quality in _QUALITIES:
                content = io.BytesIO()
                picture.save(content, "JPEG", quality=quality, optimize=True)
                if content.tell() <= most:
                    return content.getvalue()
    except broken:
        pass
    return None


def image_statistics(pixels: np.ndarray) -> np.ndarray:
    """What a picture looks like from afar, as 264 numbers.

    Mean colours of a 6 x 4 grid, centred (72); the square root of a histogram of 64 colours; and the square root of a
    histogram of edges by direction, weighted by their strength, in each of 4 x 4 cells (128).

    Args:
        pixels: uint8 [64, 64, 3], red, green, blue.

    Returns:
        float32 [264].
    """
    values = pixels.astype(np.float32) / 255
    rows = np.array_split(np.arange(_SIDE), _GRID[1])
    columns = np.array_split(np.arange(_SIDE), _GRID[0])
    grid = [values[np.ix_(own, other)].mean((0, 1)) - 0.5 for own in rows for other in columns]
    level = (pixels // (256 // _LEVELS)).astype(np.int64)
    colour = level @ np.array([_LEVELS**2, _LEVELS, 1])
    histogram = np.bincount(colour.reshape(-1), minlength=_LEVELS**3) / colour.size
    down, across = np.gradient(values.mean(2))
    strength = np.hypot(down, across)
    turn = (np.arctan2(down, across) % np.pi) / np.pi  # an edge from dark to light is one from light to dark
    direction = np.minimum((turn * _DIRECTIONS).astype(np.int64), _DIRECTIONS - 1)
    cell = np.arange(_SIDE) * _CELLS // _SIDE
    place = (cell[:, None] * _CELLS + cell) * _DIRECTIONS + direction
    edges = np.bincount(place.reshape(-1), strength.reshape(-1), minlength=_CELLS**2 * _DIRECTIONS)
    share = edges / max(float(edges.sum()), 1e-12)
    return np.concatenate([np.concatenate(grid), np.sqrt(histogram), np.sqrt(share)]).astype(np.float32)
