"""`load`: a directory in any known layout, and the features asked for, as one AlignmentPair."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from loginmea_fast.data import dbp15k, labeled_layouts, openea  # noqa: F401  (importing registers their layouts)
from loginmea_fast.data.directory import VECTOR_PREFIX, DataDirectory
from loginmea_fast.data.filekind import COMPRESSED_SUFFIXES, is_clutter
from loginmea_fast.data.formats import ReadOptions, find_format
from loginmea_fast.data.images import image_files
from loginmea_fast.data.modalities import build_features, check_modalities
from loginmea_fast.data.pair import AlignmentPair
from loginmea_fast.data.textfile import some_of
from loginmea_fast.data.values import holds_numbers, read_values
from loginmea_fast.data.vector_files import TABLES
from loginmea_fast.data.vectors import SUFFIXES, VectorSource, vector_sources
from loginmea_fast.errors import DataError

__all__ = ["load", "load_embedded"]

EMBEDDED = Path(__file__).with_name("embedded")
_FIELD_PICKLE = "_id_img_feature_dict.pkl"


def load(
    directory: str | os.PathLike[str],
    format: str = "auto",
    modalities: Sequence[str] | str | None = None,
    *,
    vectors: Mapping[str, Any] | None = None,
    compat: Literal["authors"] | None = None,
    bags: Literal["types", "counts"] | None = None,
    bag_size: int | None = None,
    name_ngrams: tuple[int, ...] = (2, 3),
    name_buckets: int | None = 4096,
    name_attributes: Sequence[str] | str = (),
    fold: int = 1,
    max_repeated_links: float = 1.0,
    seed: int = 0,
    with_values: bool = False,
) -> AlignmentPair:
    """Reads two knowledge graphs, their links and the features of their entities.

    Modalities: ``relation`` and ``attribute`` (sparse bags of the most frequent), ``value`` (numbers and dates of
    attributes), ``name`` and ``name_tfidf`` (character n-grams: counts inside words, or TF-IDF over the whole name),
    ``word`` (words of names), ``sentence`` (vectors of names, optional extra), and any other name for which there is a
    file of vectors: in ``vectors``, or in the directory as ``features_<modality>`` with one of the known suffixes;
    ``*_id_img_feature_dict.pkl`` is ``image``.

    Args:
        directory: holds the files of both graphs.
        format: "dbp15k", "openea", another registered layout, or "auto" to go by the file names.
        modalities: which features to build, in this order, as a sequence or as "relation,attribute". None takes those
            with a file of vectors, then ``relation``, then ``attribute`` where there are attributes, the order of the
            authors' model, then ``value`` where attributes have numbers or dates.
        vectors: modality -> file of vectors, or what such a file would hold (a mapping from uris to arrays, an array, a
            sparse matrix), or several; see :func:`loginmea_fast.data.vectors.vector_feature`.
        compat: "authors" gives bags their fixed width and fills missing images as their code does.
        bags: "types" says which relations lead from an entity and to it, "counts" how often each meets it, as the
            authors have it. None is "types", and "counts" under ``compat="authors"``.
        bag_size: how many relations and attribute types the bags keep, the most frequent ones; None for all, and 1000
            under ``compat="authors"``.
        name_ngrams: lengths of the character n-grams.
        name_buckets: columns to hash n-grams and words into; None gives each its own column.
        name_attributes: attributes of ``attr_triples_1/2`` whose values are the names of entities, one or several; the
            first that an entity has is its name. Give one for each graph where they differ.
        fold: which of OpenEA's prepared splits is the official one.
        max_repeated_links: share of links whose entity has another link already that is tolerated, with a note: all by
            default, because 1-to-n data are split and ranked as such; 0 makes every one an error.
        seed: of random image vectors under ``compat="authors"``.
        with_values: reads the values of attributes where there are any, so that they can be written elsewhere; else
            they are read for the modality ``value`` alone.

    Returns:
        The pair. Both graphs share one id space; entity ids are those of the files where these are 0 to N - 1.

    Raises:
        DataError: one sentence with file, line and remedy.
    """
    if compat not in (None, "authors"):
        raise DataError(f"compat is None or 'authors'; got {compat!r}")
    directory = Path(directory)
    names = (name_attributes,) if isinstance(name_attributes, str) else tuple(name_attributes)
    options = ReadOptions(fold=fold, max_repeated_links=max_repeated_links, name_attributes=names)
    layout = find_format(directory, format)
    if fold != 1 and layout.name != "openea":
        raise DataError(
            f"fold={fold} is for OpenEA's prepared splits, and {directory} is in the layout {layout.name}; "
            "leave fold out"
        )
    given = vector_sources(vectors)
    found, unread = _vector_files(directory, given)
    files = {name: (path,) for name, path in found.items()} | given
    asked = modalities.split(",") if isinstance(modalities, str) else modalities
    wanted = None if asked is None else [name.strip() for name in asked]
    check_modalities(str(directory), wanted, files, given)
    pair = layout.read(directory, options)
    if wanted is None:
        built = {"relation": len(pair.triples) > 0, "attribute": pair.attributes is not None}
        if compat is None and "value" not in files and _value_files(directory):
            pair = replace(pair, values=read_values(directory, pair))
            built["value"] = pair.values is not None and holds_numbers(pair.values)
        wanted = [*files, *(name for name, there in built.items() if there and name not in files)]
    wants_values = "value" in wanted and "value" not in files
    if pair.values is None and (wants_values or (with_values and _value_files(directory))):
        pair = replace(pair, values=read_values(directory, pair))
    features, notes = build_features(
        pair,
        wanted,
        files,
        where=str(directory),
        compat=compat,
        bags=bags,
        bag_size=bag_size,
        name_ngrams=name_ngrams,
        name_buckets=name_buckets,
        seed=seed,
    )
    if pair.values is None and not names and (unused := _unread_values(directory)):
        notes += (f"values in {', '.join(unused)} are not read; the modality 'value' is made of them",)
    if unread:
        notes += (f"vectors not read in {directory.name}: {some_of(unread)}",)
    return replace(pair, features=features, notes=pair.notes + notes)


def load_embedded(modalities: Sequence[str] | str | None = None, **options: Any) -> AlignmentPair:
    """The real pair that ships inside the package: GeoNames against countryinfo, which has REST Countries' fields.

    Countries, capitals, currencies, languages and time zones of both sources are linked; features are relations,
    attributes and vectors of flags. ``embedded/README.md`` beside the files names sources, versions and licences.

    Args:
        modalities: as in :func:`load`; add "name" for names.
        options: as in :func:`load`.

    Returns:
        The pair.
    """
    pair = load(EMBEDDED, "dbp15k", modalities, **options)
    return replace(pair, name="GeoNames - countryinfo")


def _value_files(directory: Path) -> list[str]:
    there = DataDirectory(directory).names()
    return [name for name in ("attr_triples_1", "attr_triples_2") if name in there]


def _unread_values(directory: Path) -> list[str]:
    """Files of attribute values beside files that say the attribute types, which readers take instead."""
    there = DataDirectory(directory).names()
    return [
        name for name in _value_files(directory) if name.replace("attr_triples", "training_attrs") in there
    ]


def _vector_files(
    directory: Path, given: Mapping[str, Sequence[VectorSource]]
) -> tuple[dict[str, Path], list[str]]:
    """Files of vectors in a data directory, modality -> file, images first, then by name; and those of no modality.

    Args:
        directory: where to look.
        given: files that were named, or content, by modality; these files are nothing to wonder at.
    """
    files: dict[str, Path] = {}
    unread = []
    given_files = [source for sources in given.values() for source in sources if isinstance(source, Path)]
    for path in sorted(directory.iterdir()):
        packed = path.suffix.lower() in COMPRESSED_SUFFIXES
        plain = path.with_suffix("") if packed else path
        named = plain.stem.startswith(VECTOR_PREFIX)
        modality = plain.stem.removeprefix(VECTOR_PREFIX) if named else ""
        if plain.name.endswith(_FIELD_PICKLE):
            modality = "image"
        if is_clutter(path.name):
            continue
        readable = plain.suffix.lower() in (*SUFFIXES, *TABLES) or (path.is_dir() and image_files(path))
        if not modality or not readable:
            known = any(path.samefile(other) for other in given_files if other.exists())
            if (named or plain.suffix.lower() in SUFFIXES) and not known:
                why = "no modality; name it features_<modality> or give it as vectors"
                unread.append(
                    f"{path.name} ({f'{plain.suffix or chr(39) * 2} is no known suffix' if named else why})"
                )
            continue
        if modality in given:
            continue
        if modality in files:
            raise DataError(f"{files[modality]} and {path.name} both hold {modality!r}; remove one of them")
        files[modality] = path
    return dict(sorted(files.items(), key=lambda item: (item[0] != "image", item[0]))), unread
