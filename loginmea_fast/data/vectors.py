"""Dense features from files, one vector an entity, and what entities get that have none."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from loginmea_fast.data.bags import csr_matrix
from loginmea_fast.data.feature_store import FeatureStore
from loginmea_fast.data.tables import Entities, Feature, first_nonfinite_row
from loginmea_fast.data.textfile import shorten, some_of
from loginmea_fast.data.vector_files import SUFFIXES, StoredVectors, as_rows, read_vectors, take_vectors
from loginmea_fast.data.vector_keys import Matched, match_ids, match_keys
from loginmea_fast.errors import DataError
from loginmea_fast.mapped import MappedMatrix

__all__ = ["SUFFIXES", "VectorSource", "entities_digest", "vector_feature", "vector_sources"]

VectorSource = Any  # the path of a file, or what such a file would hold

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_BLOCK = 1 << 22  # numbers handled at once where half precision is computed in float32


def vector_sources(given: Mapping[str, Any] | None) -> dict[str, tuple[VectorSource, ...]]:
    """Where the vectors of each modality are, from what a caller may say: a path, content, or several of either.

    Raises:
        DataError: no mapping from modalities.
    """
    if given is not None and not isinstance(given, Mapping):
        raise DataError(f"vectors must be a mapping, modality -> file; got {type(given).__name__}")
    sources: dict[str, tuple[VectorSource, ...]] = {}
    for modality, named in (given or {}).items():
        several = isinstance(named, list | tuple) and len(named) > 0
        several = several and all(isinstance(item, str | os.PathLike | Mapping) for item in named)
        items = named if several else (named,)
        sources[modality] = tuple(
            Path(item) if isinstance(item, str | os.PathLike) else item for item in items
        )
    return sources


def vector_feature(
    sources: Sequence[VectorSource],
    pair: Entities,
    *,
    has_vector: Tensor | None = None,
    compat: Literal["authors"] | None = None,
    seed: int = 0,
    name: str = "vectors",
) -> tuple[Feature, tuple[str, ...]]:
    """One vector an entity from a file or several, gaps filled, rows scaled to length one.

    An entity without a vector (not among the ids, not in ``has_vector``, or a row of zeros) gets the mean of its
    neighbours' vectors, a neighbour counting once a triple; if no neighbour has one, the mean of all vectors. With
    ``compat="authors"`` the latter is one random vector for all such entities, drawn from a normal distribution
    with the mean and standard deviation of every column, as in the authors' ``load_img_new``. float16 and
    bfloat16 stay what they are; float64 and integers become float32.

    Args:
        sources: files, as paths, or what they would hold; as a rule one. A file is numpy's ``.npy`` or ``.npz``,
            safetensors, HDF5, a pickle or a file of ``torch.save``, read as what its content says it is. It holds one
            of

            - an array [N, d], a row an entity, row k that of entity k;
            - ``features`` [n, d] and ``ids`` [n], or ``uris``, ``names`` or ``keys`` [n] of strings; by other names too
              where names and shapes leave no doubt (``embeddings`` and ``entity``), or both in a tuple;
            - an array [d] an entity, or several, named by its id, uri or name, in a dictionary, in groups, or in a
              list of (key, array);
            - ``features`` [N, d] and ``present`` [N] bool: complete, taken as they are;
            - a sparse matrix [N, d] as scipy's ``save_npz`` writes it.

            Several vectors of an entity are averaged. Several files, one a graph for instance, are read each by itself
            and joined before gaps are filled; a complete one stands alone.
        pair: whose entities these are.
        has_vector: [N] bool, which rows of an array without ids are to be believed; None: all that are not zero.
        compat: "authors" for their way with entities that have no vector near.
        seed: of that random vector.
        name: what to call content that is no file.

    Returns:
        The feature, whose mask says which entities had a vector in the file; and notes: keys that are nobody's,
        entities with several vectors, how rows go where the entities' ids are not those of the files.

    Raises:
        DataError: unreadable file, wrong number of rows, no key that is an entity's, NaN or infinity, no vector at
            all, files that cannot be joined.
    """
    named = [own for own in sources if isinstance(own, Path)]
    if len(set(named)) != len(named):
        raise DataError(f"{some_of(map(str, named))} are one modality and name a file twice; name each once")
    files = [own if isinstance(own, Path) else Path(name) for own in sources]
    count = pair.num_entities
    parts: list[_Part] = []
    for file, source in zip(files, sources, strict=True):
        stored = read_vectors(source) if isinstance(source, Path) else take_vectors(source, file)
        if len(sources) > 1 and isinstance(stored.values, MappedMatrix):
            stored.values = stored.values.rows(slice(None))  # rows of several files are joined in memory
        unread = [f"{file.name}: {some_of(map(shorten, stored.unread))} not read"] if stored.unread else []
        if stored.values is not None and (
            stored.values.layout == torch.sparse_csr or stored.present is not None
        ):
            if len(sources) > 1:
                raise DataError(
                    f"{file} is complete, a row for each of the {count} entities, and cannot be joined with other "
                    "files of its modality; leave those out, or give it as a modality of its own"
                )
            by_row = () if stored.written_for else _numbering(file.name, "row", pair)
            return _complete(file, stored, pair), (*unread, *by_row)
        part = _read_part(file, stored, pair, has_vector)
        part.notes.extend(unread)
        if isinstance(part.rows, FeatureStore):
            return _kept_in_file(part, pair, compat, seed), tuple(part.notes)
        if parts and part.rows.shape[1] != parts[0].rows.shape[1]:
            raise DataError(
                f"{file} has vectors of {part.rows.shape[1]} numbers, {files[0]} of {parts[0].rows.shape[1]}; "
                "the files of one modality need as many, so give it as a modality of its own"
            )
        parts.append(part)
    names = ", ".join(file.name for file in files)
    told = dict.fromkeys(part.told for part in parts if part.told not in ("", "ids"))
    notes = [note for part in parts for note in part.notes]
    ids, values = (
        (parts[0].ids, parts[0].rows)
        if len(parts) == 1
        else (torch.cat([part.ids for part in parts]), torch.cat([part.rows for part in parts]))
    )
    ids, values, averaged = _average(names, ids, values)
    present = torch.zeros(count, dtype=torch.bool)
    present[ids] = True
    rows = torch.zeros(count, values.shape[1], dtype=values.dtype)
    rows[ids] = values
    filled, by_neighbours = _fill(rows, present, pair.triples, compat, seed)
    rows[~present] = filled
    step = max(1, _BLOCK // rows.shape[1])
    for start in range(0, len(rows), step):
        rows[start : start + step] = _unit_rows(rows[start : start + step])
    by = f" by {' and '.join(told)}" if told else ""
    told_gaps = _gaps(len(filled), by_neighbours, compat)
    pictures = {entity: file for part in parts for entity, file in part.pictures.items()}
    return Feature(rows, present, f"vectors from {names}{by}; {told_gaps}", pictures), (*notes, *averaged)


def _numbering(name: str, what: str, pair: Entities) -> tuple[str, ...]:
    """A note on which row or id is whose, where no file says so."""
    if pair.numbering is None:
        return ()
    first, second = int(pair.left_entities.min()), int(pair.right_entities.min())
    return (
        f"{name}: {pair.numbering}; {what} {first} is that of {shorten(pair.uris[first])}, the first of graph 1, "
        f"{what} {second} that of {shorten(pair.uris[second])}, the first of graph 2: where that is not so, name the "
        "vectors by uris",
    )


@dataclass(frozen=True)
class _Part:
    """The vectors of one file: rows [n, d], whose they are [n], what its keys are, and notes.

    Rows that stay in the file are a store with a row for every entity, of which those of `ids` are to be believed.
    """

    rows: Any
    ids: Tensor
    told: str
    notes: list[str]
    pictures: dict[int, Path] = field(default_factory=dict)


def _read_part(path: Path, stored: StoredVectors, pair: Entities, has_vector: Tensor | None) -> _Part:
    told = ""
    notes: list[str] = []
    values: Tensor | MappedMatrix
    pictures: dict[int, Path] = {}
    if stored.entries is not None:
        values, ids, told, notes, keys = _keyed(path, stored.entries, pair)
        if path.is_dir():
            for key, entity in zip(keys, ids.tolist(), strict=True):
                pictures.setdefault(entity, path / key)
    else:
        assert stored.values is not None
        values = stored.values
    which: Tensor | None = None  # rows of the file that `ids` are the entities of; None for all
    if stored.keys is not None:
        ids, told, notes = _owners(path, stored.keys, pair)
        which = (ids >= 0).nonzero()[:, 0]
        ids = ids[which]
    elif stored.entries is None:
        _check_rows(path, values, pair.num_entities)
        notes += _numbering(path.name, "row", pair)
        ids = torch.arange(pair.num_entities)
        if has_vector is not None:
            which = ids = has_vector.nonzero()[:, 0]
    if isinstance(values, MappedMatrix):
        which = ids if which is None else which
        if len(ids.unique()) == len(ids):
            some = _some_in_file(path, values, which, ids, pair)
        else:
            values = values.rows(slice(None))  # an entity's vectors are averaged in memory
    if not isinstance(values, MappedMatrix):
        values = values if values.dtype in _FLOATS else values.to(torch.float32)
        values = values if which is None else values[which]
        _check_finite(path, values, ids, pair)
        some = (values != 0).any(dim=1)
    if not bool(some.any()):
        raise DataError(f"{path} holds no vector that is not zero; check the file or leave its modality out")
    if isinstance(values, MappedMatrix):
        assert which is not None
        place = torch.full((pair.num_entities,), -1)
        place[ids[some]] = which[some]
        return _Part(FeatureStore(values, place), ids[some], told, notes)
    return _Part(values[some], ids[some], told, notes, pictures)


def _some_in_file(path: Path, matrix: MappedMatrix, which: Tensor, ids: Tensor, pair: Entities) -> Tensor:
    """Which of the rows `which` [n], those of entities `ids`, are not zero; they are read once, and must be finite."""
    some = torch.empty(len(ids), dtype=torch.bool)
    step = max(1, _BLOCK // matrix.shape[1])
    for start in range(0, len(ids), step):
        part = slice(start, start + step)
        rows = matrix.rows(which[part])
        _check_finite(path, rows, ids[part], pair)
        some[part] = (rows != 0).any(1)
    return some


def _kept_in_file(part: _Part, pair: Entities, compat: Literal["authors"] | None, seed: int) -> Feature:
    """The feature of rows that stay in their file: gaps are filled in memory, lengths become one when rows are read."""
    assert isinstance(part.rows, FeatureStore)
    present = torch.zeros(pair.num_entities, dtype=torch.bool)
    present[part.ids] = True
    filled, by_neighbours = _fill(part.rows, present, pair.triples, compat, seed)
    store = part.rows.replaced((~present).nonzero()[:, 0], filled)
    return Feature(
        store.through(_unit_rows),
        present,
        f"vectors read from their file when they are needed; {_gaps(len(filled), by_neighbours, compat)}",
    )


def _gaps(filled: int, by_neighbours: int, compat: Literal["authors"] | None) -> str:
    last = "a shared random vector" if compat == "authors" else "the mean of all"
    return f"{by_neighbours:,} gaps got their neighbours' mean, {filled - by_neighbours:,} {last}"


def _complete(path: Path, stored: StoredVectors, pair: Entities) -> Feature:
    """The feature of a file with a row for each entity, taken as it is."""
    assert stored.values is not None
    count = pair.num_entities
    values: Any = stored.values
    _check_rows(path, values, count)
    if stored.written_for and stored.written_for != entities_digest(pair.uris):
        raise DataError(
            f"{path} was written for other entities than those here, or for the same in another order; load and save "
            "the data set that it belongs to, or leave its modality out"
        )
    if isinstance(values, MappedMatrix):
        everyone = torch.arange(count)
        _some_in_file(path, values, everyone, everyone, pair)
        values = FeatureStore(values, everyone)
    else:
        values = values if values.dtype in _FLOATS else values.to(torch.float32)
        _check_finite(path, values, torch.arange(count), pair)
    present = values.crow_indices().diff() > 0 if stored.present is None else stored.present
    if present.shape != (count,):
        raise DataError(
            f"{path}: 'present' has {present.numel()} flags for {count} entities; one each is needed"
        )
    return Feature(values, present, stored.description or f"as stored in {path.name}")


def _fill(
    rows: Tensor | FeatureStore,
    present: Tensor,
    triples: Tensor,
    compat: Literal["authors"] | None,
    seed: int,
) -> tuple[Tensor, int]:
    """Rows [g, d] for the entities that have none, in their order, and how many are the mean of neighbours."""
    missing = (~present).nonzero()[:, 0]
    filled = torch.empty(len(missing), rows.shape[1], dtype=rows.dtype)
    if not len(missing):
        return filled, 0
    position = torch.full((len(present),), -1, dtype=torch.int64)
    position[missing] = torch.arange(len(missing))
    ends = torch.cat([triples[:, [0, 2]], triples[:, [2, 0]]])
    ends = ends[~present[ends[:, 0]] & present[ends[:, 1]]]
    owner, order = position[ends[:, 0]].sort(stable=True)
    received = torch.bincount(owner, minlength=len(missing))
    ends, bounds = ends[order], [0, *received.cumsum(0).tolist()]
    step = max(1, _BLOCK // rows.shape[1])
    for start in range(0, len(missing), step):
        end = min(start + step, len(missing))
        part = slice(bounds[start], bounds[end])
        near, column = ends[part, 1].unique(return_inverse=True)
        weights = (1.0 / received[owner[part]]).numpy()
        shape = (end - start, len(near))
        mixing = csr_matrix((owner[part] - start).numpy(), column.numpy(), weights, shape)
        if len(near):
            filled[start:end] = (mixing @ rows[near].float()).to(filled.dtype)
    alone = received == 0
    if bool(alone.any()):
        filled[alone] = _of_all(rows, present, compat, seed).to(filled.dtype)
    return filled, len(missing) - int(alone.sum())


def _of_all(
    rows: Tensor | FeatureStore, present: Tensor, compat: Literal["authors"] | None, seed: int
) -> Tensor:
    """The mean of all vectors [d]; under the authors' way a draw with mean and deviation of every column."""
    total, squares = torch.zeros(2, rows.shape[1], dtype=torch.float64)
    own = present.nonzero()[:, 0]
    for part in own.split(max(1, _BLOCK // rows.shape[1])):
        block = rows[part].double()
        total += block.sum(0)
        squares += block.square().sum(0)
    mean = total / len(own)
    if compat != "authors":
        return mean.float()
    deviation = (squares / len(own) - mean.square()).clamp_min(0).sqrt()
    return torch.normal(mean.float(), deviation.float(), generator=torch.Generator().manual_seed(seed))


def _unit_rows(rows: Tensor) -> Tensor:
    """Rows divided by their length."""
    wide = rows.float()
    # Squares of 1e-30 vanish in float32 and those of 1e30 overflow: such rows are brought near 1 first.
    largest = wide.abs().amax(1, keepdim=True)
    extreme = (largest >= torch.finfo(torch.float32).tiny) & ((largest < 1e-12) | (largest > 1e15))
    return torch.nn.functional.normalize(wide / torch.where(extreme, largest, 1.0)).to(rows.dtype)


def _check_rows(path: Path, values: Tensor | MappedMatrix, count: int) -> None:
    if values.ndim != 2 or values.shape[0] != count or values.shape[1] == 0:
        turned = values.ndim == 2 and values.shape[1] == count
        raise DataError(
            f"{path}: features of shape {list(values.shape)} for {count} entities; "
            + ("store the transpose, " if turned else "give ")
            + "one row an entity, or an array 'ids' that says whose the rows are"
        )


def _keyed(
    path: Path, entries: Mapping[Any, Any], pair: Entities
) -> tuple[Tensor, Tensor, str, list[str], list[Any]]:
    """From a file with arrays an entity: rows [n, d], whose they are [n], what its keys are, notes, each row's key."""
    keys = list(entries)
    owners, told, notes = _owners(path, keys, pair)
    parts, whose, empty, used = [], [], [], []
    width = None
    for key, entity in zip(keys, owners.tolist(), strict=True):
        if entity < 0:
            continue
        try:
            rows = as_rows(entries[key])
        except DataError as error:
            raise DataError(f"{path}: the value of {_called(key)} {error}") from None
        if not len(rows):
            empty.append(key)
            continue
        width = rows.shape[1] if width is None else width
        if rows.shape[1] != width:
            raise DataError(
                f"{path}: {_called(key)} has {rows.shape[1]} numbers, others have {width}; all need as many"
            )
        parts.append(rows)
        whose.append(torch.full((len(rows),), entity))
        used += [key] * len(rows)
    if empty:
        notes.append(f"{path.name}: {len(empty):,} keys hold no vector (first: {shorten(str(empty[0]))})")
    if not parts:
        raise DataError(f"{path} holds no vector; check the file or leave its modality out")
    return torch.cat(parts), torch.cat(whose), told, notes, used


def _owners(path: Path, keys: Tensor | list[Any], pair: Entities) -> tuple[Tensor, str, list[str]]:
    """The entity of each key, below zero where there is none; what the keys are; notes."""
    if isinstance(keys, Tensor) and (keys.is_floating_point() or keys.dtype == torch.bool):
        raise DataError(f"{path}: ids of {keys.dtype}; ids must be integers, so store ids.astype(int)")
    matched: Matched
    if isinstance(keys, Tensor) or all(type(key) is int or isinstance(key, np.integer) for key in keys):
        try:
            ids = (
                keys.numpy().astype(np.int64) if isinstance(keys, Tensor) else np.array(keys, dtype=np.int64)
            )
        except OverflowError:
            raise DataError(f"{path}: an id is too large; ids must be below 2 ** 63") from None
        matched = match_ids(path, ids, pair)
        entities = matched.entities
    else:
        distinct = list(dict.fromkeys(keys))
        matched = match_keys(path, distinct, pair)
        entity = dict(zip(distinct, matched.entities.tolist(), strict=True))
        entities = np.array([entity[key] for key in keys])
    notes = list(matched.notes)
    if matched.told == "ids" and pair.file_ids is None:
        notes += _numbering(path.name, "id", pair)
    return torch.from_numpy(entities), matched.told, notes


def entities_digest(uris: Sequence[str]) -> str:
    """What tells a list of entities, in its order, from another; files with a row for each keep it."""
    return hashlib.sha256("\0".join(uris).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _called(key: Hashable) -> str:
    return shorten(key) if isinstance(key, str) else f"entity {key}"


def _average(names: str, ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, list[str]]:
    """One row an entity: the mean of its rows, and a note where there are several."""
    distinct, inverse, times = ids.unique(return_inverse=True, return_counts=True)
    if len(distinct) == len(ids):
        return ids, rows, []
    sums = torch.zeros(len(distinct), rows.shape[1]).index_add_(0, inverse, rows.float())
    several = times > 1
    note = (
        f"{names}: {int(several.sum()):,} entities have several vectors, {int(times.max())} at most, which are "
        f"averaged (first: entity {int(distinct[several][0])})"
    )
    return distinct, (sums / times[:, None]).to(rows.dtype), [note]


def _check_finite(path: Path, values: Tensor, ids: Tensor, pair: Entities) -> None:
    row = first_nonfinite_row(values)
    if row is not None:
        entity = int(ids[row])
        raise DataError(
            f"{path}: the vector of entity {entity} ({shorten(pair.uris[entity])}) holds NaN or infinity; "
            "repair it or leave the entity out"
        )
