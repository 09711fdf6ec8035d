"""Features of a pair by the names of their modalities, whatever the pair was made of."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from loginmea_fast.data.bags import attribute_bag, relation_bag
from loginmea_fast.data.names import name_words, ngram_bag, tfidf_bag, word_bag
from loginmea_fast.data.sentence import check_encoder, sentence_feature
from loginmea_fast.data.tables import Entities, Feature
from loginmea_fast.data.textfile import some_of
from loginmea_fast.data.values import value_feature
from loginmea_fast.data.vector_files import check_vectors
from loginmea_fast.data.vectors import VectorSource, vector_feature
from loginmea_fast.errors import DataError

__all__ = ["build_features", "check_modalities"]

_BUILT = ("relation", "attribute", "value", "name", "name_tfidf", "word", "sentence")


def check_modalities(
    where: str,
    wanted: Sequence[str] | None,
    files: Mapping[str, Sequence[VectorSource]],
    given: Mapping[str, Sequence[VectorSource]],
) -> None:
    """Refuses, before anything is read, modalities and vectors that are not there.

    Args:
        where: what the pair is read from, for errors.
        wanted: the modalities asked for; None asks for what there is.
        files: where the vectors of modalities are, found or given.
        given: those that were given.

    Raises:
        DataError: names the modality, the near one and the remedy.
    """
    for named in given.values():
        for source in named:
            if isinstance(source, Path):
                check_vectors(source)
    if wanted is None:
        return
    if unasked := [name for name in given if name not in wanted]:
        raise DataError(
            f"vectors are given for {some_of(unasked)}, which is none of the modalities {', '.join(wanted)}; "
            "name it there too, or leave its vectors out"
        )
    for modality in wanted:
        if modality not in files and modality not in _BUILT:
            near = difflib.get_close_matches(modality, [*files, *_BUILT], 1)
            raise DataError(
                f"{where} has no file features_{modality} and {modality!r} is none of {', '.join(_BUILT)}; "
                + (f"did you mean {near[0]!r}? else " if near else "")
                + f"give its vectors as {modality}=FILE (--vectors, vectors={{...}}) or leave the modality out"
            )
    if "sentence" in wanted and "sentence" not in files:
        check_encoder()


def build_features(
    pair: Entities,
    modalities: Sequence[str],
    vectors: Mapping[str, Sequence[VectorSource]],
    *,
    where: str,
    compat: Literal["authors"] | None = None,
    bags: Literal["types", "counts"] | None = None,
    bag_size: int | None = None,
    name_ngrams: tuple[int, ...] = (2, 3),
    name_buckets: int | None = 4096,
    seed: int = 0,
) -> tuple[dict[str, Feature], tuple[str, ...]]:
    """Builds one feature a modality, in the order asked for.

    Args:
        pair: whose entities these are; its fields are what bags, values and names are made of.
        modalities: which features; see :func:`loginmea_fast.data.load`; checked by :func:`check_modalities`.
        vectors: modality -> where its vectors are; such a modality is built of them whatever its name.
        where: what the pair was read from, for errors.
        compat: see there, as the arguments below.
        bags: see there.
        bag_size: see there.
        name_ngrams: see there.
        name_buckets: see there.
        seed: see there.

    Returns:
        The features, and notes.

    Raises:
        DataError: a modality that the pair has nothing to build of.
    """
    if bags not in (None, "types", "counts"):
        raise DataError(f"bags must be 'types' or 'counts'; got {bags!r}")
    if bag_size is not None and bag_size < 1:
        raise DataError(f"bag_size must be at least 1, or None for all; got {bag_size}")
    kind = bags or ("counts" if compat == "authors" else "types")
    if compat == "authors":
        bag_size = bag_size or 1000
    width = bag_size if compat == "authors" else None
    features: dict[str, Feature] = {}
    notes: tuple[str, ...] = ()
    for modality in modalities:
        if modality in vectors:
            has_vector = pair.has_image if modality == "image" else None
            features[modality], said = vector_feature(
                vectors[modality],
                pair,
                has_vector=has_vector,
                compat=compat,
                seed=seed,
                name=f"vectors[{modality!r}]",
            )
            notes += said
        elif modality == "relation":
            if not len(pair.triples):
                raise DataError(f"{where} has no relation triples; leave the modality 'relation' out")
            features[modality] = relation_bag(pair.triples, pair.num_entities, bag_size, width, kind)
        elif modality == "attribute":
            if pair.attributes is None:
                raise DataError(f"{where} has no attributes; leave the modality 'attribute' out")
            features[modality] = attribute_bag(pair.attributes, pair.num_entities, bag_size, width)
        elif modality == "value":
            if pair.values is None:
                raise DataError(f"{where} has no values of attributes; leave the modality 'value' out")
            features[modality], said = value_feature(pair.values, pair.num_entities)
            notes += said
        elif modality == "name":
            features[modality] = ngram_bag(name_words(pair), name_ngrams, name_buckets)
        elif modality == "name_tfidf":
            features[modality] = tfidf_bag(name_words(pair), name_ngrams)
        elif modality == "word":
            features[modality] = word_bag(name_words(pair), name_buckets)
        elif modality == "sentence":
            features[modality] = sentence_feature([" ".join(words) for words in name_words(pair)])
    return features, notes
