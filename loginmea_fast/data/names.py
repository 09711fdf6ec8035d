"""Names of entities: from identifiers, into sparse bags of character n-grams or words."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from urllib.parse import unquote

import numpy as np
import torch

from loginmea_fast.data.bags import csr_matrix, rows_with_entries
from loginmea_fast.data.identifiers import without_escapes
from loginmea_fast.data.tables import Entities, Feature
from loginmea_fast.errors import DataError

__all__ = ["display_name", "name_words", "ngram_bag", "tfidf_bag", "word_bag"]


def display_name(uri: str) -> str:
    """What a reader would call the entity behind a URI: its last segment, unescaped, underscores as spaces."""
    bare = without_escapes(uri.strip().removeprefix("<").removesuffix(">"))
    segment = bare.rstrip("/#").rsplit("#", 1)[-1].rsplit("/", 1)[-1]
    # DBpedia names may hold a slash, "AC/DC": the last segment is then only a part, so the resource path goes first.
    if "/resource/" in bare:
        segment = bare.split("/resource/", 1)[1]
    return unquote(segment).replace("_", " ").strip() or uri


def name_words(pair: Entities) -> list[list[str]]:
    """Lower-case words of every entity's name: those that came translated, else those of its display name."""
    translated = pair.words or {}
    return [
        [word.lower() for word in translated[entity]] if entity in translated else name.lower().split()
        for entity, name in enumerate(pair.names)
    ]


def ngram_bag(
    words: Iterable[list[str]], sizes: tuple[int, ...] = (2, 3), buckets: int | None = None
) -> Feature:
    """Character n-grams inside the words of a name, rows of length one.

    Args:
        words: lower-case words of each entity.
        sizes: lengths n of the n-grams; the authors' character feature is sizes (2,), exact.
        buckets: None gives every n-gram that occurs its own column (exact), a number hashes them into that many
            columns, which keeps the width in hand for large vocabularies.

    Returns:
        A sparse CSR feature [N, width] of float32; an entity without any n-gram has an empty row.

    Raises:
        DataError: sizes that are no positive integers, or no bucket.
    """
    if not sizes or min(sizes) < 1 or (buckets is not None and buckets < 1):
        raise DataError(
            f"n-gram sizes {sizes} and buckets {buckets} must be positive; (2, 3) and 4096 are usual"
        )
    tokens = (
        [word[i : i + n] for word in own for n in sizes for i in range(len(word) - n + 1)] for own in words
    )
    kind = "exact" if buckets is None else "hashed"
    return _token_bag(tokens, buckets, f"{kind} character {'-, '.join(map(str, sizes))}-grams of names")


def tfidf_bag(words: Iterable[list[str]], sizes: tuple[int, ...] = (2, 3)) -> Feature:
    """Character n-grams of the whole name, its ends and spaces included, by TF-IDF; rows of length one.

    An n-gram weighs (1 + log of how often the name has it) log(N / names that have it). Over both graphs, so that what
    is common in one language alone weighs little in either. N-grams of a single name have no column, but count in the
    length of its row: a name that shares little is like nobody.

    Args:
        words: lower-case words of each entity.
        sizes: lengths n of the n-grams.

    Returns:
        A sparse CSR feature [N, n-grams that two names or more have] of float32.

    Raises:
        DataError: sizes that are no positive integers.
    """
    if not sizes or min(sizes) < 1:
        raise DataError(f"n-gram sizes {sizes} must be positive; (2, 3) is usual")
    texts = (f" {' '.join(own)} " if own else "" for own in words)
    tokens = ([text[i : i + n] for n in sizes for i in range(len(text) - n + 1)] for text in texts)
    row, column, num_rows, num_columns = _occurrences(tokens, None)
    counts = csr_matrix(row, column, None, (num_rows, max(num_columns, 1)))
    index, entries = counts.col_indices().numpy(), counts.values().numpy()
    having = np.bincount(index, minlength=max(num_columns, 1))
    weights = (1 + np.log(entries)) * np.log(num_rows / having[index])
    owner = np.repeat(np.arange(num_rows), counts.crow_indices().diff().numpy())
    length = np.sqrt(np.bincount(owner, weights * weights, minlength=num_rows))
    shared = having > 1
    keep = shared[index] & (weights > 0)
    place = np.cumsum(shared) - 1
    bag = csr_matrix(
        owner[keep],
        place[index[keep]],
        (weights / np.maximum(length[owner], 1e-12))[keep],
        (num_rows, max(int(shared.sum()), 1)),
    )
    description = f"TF-IDF of character {'-, '.join(map(str, sizes))}-grams of names"
    return Feature(bag, rows_with_entries(bag), description)


def word_bag(words: Iterable[list[str]], buckets: int | None = None) -> Feature:
    """Words of names, rows of length one; ``buckets`` as in :func:`ngram_bag`."""
    if buckets is not None and buckets < 1:
        raise DataError(f"the number of buckets must be positive, not {buckets}")
    return _token_bag(words, buckets, "words of names")


def _token_bag(tokens: Iterable[list[str]], buckets: int | None, description: str) -> Feature:
    row, column, num_rows, num_columns = _occurrences(tokens, buckets)
    bag = csr_matrix(row, column, None, (num_rows, max(num_columns, 1)))
    entries = bag.values()
    lengths = bag.crow_indices().diff()
    owner = torch.repeat_interleave(torch.arange(num_rows), lengths)
    norm = torch.zeros(num_rows).index_add_(0, owner, entries * entries).sqrt_()
    entries.div_(norm[owner])
    return Feature(bag, rows_with_entries(bag), description)


def _occurrences(tokens: Iterable[list[str]], buckets: int | None) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Row and column of every token, rows, and columns: one a token, or as many as there are buckets."""
    columns: dict[str, int] = {}
    row, column = [], []
    num_rows = 0
    for entity, own in enumerate(tokens):
        num_rows += 1
        for token in own:
            row.append(entity)
            known = columns.get(token)
            if known is None:
                # crc32 and not hash(): the latter changes from process to process.
                known = (
                    len(columns)
                    if buckets is None
                    else zlib.crc32(token.encode("utf-8", "surrogatepass")) % buckets
                )
                columns[token] = known
            column.append(known)
    width = len(columns) if buckets is None else buckets
    return np.array(row, dtype=np.int64), np.array(column, dtype=np.int64), num_rows, width
