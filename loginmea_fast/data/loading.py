"""`load`: a directory in any known layout, and the features asked for, as one AlignmentPair."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from loginmea_fast.data import dbp15k  # noqa: F401  (registers its layout)
from loginmea_fast.data.bags import attribute_bag, relation_bag
from loginmea_fast.data.formats import ReadOptions, detect_format, get_format
from loginmea_fast.data.names import name_words, ngram_bag, word_bag
from loginmea_fast.data.pair import AlignmentPair, Feature
from loginmea_fast.errors import DataError

__all__ = ["load"]

MODALITIES = ("relation", "attribute", "name", "word")


def load(
    directory: str | os.PathLike[str],
    format: str = "auto",
    modalities: Sequence[str] | None = None,
    *,
    compat: Literal["authors"] | None = None,
    bag_size: int = 1000,
    name_ngrams: tuple[int, ...] = (2, 3),
    name_buckets: int | None = 4096,
    fold: int = 1,
    max_repeated_links: float = 0.001,
) -> AlignmentPair:
    """Loads a data set."""
    directory = Path(directory)
    entry = detect_format(directory) if format == "auto" else get_format(format)
    pair = entry.read(directory, ReadOptions(fold=fold, max_repeated_links=max_repeated_links))
    if modalities is None:
        modalities = ("relation", "attribute") if pair.attributes is not None else ("relation",)
    width = bag_size if compat == "authors" else None
    features: dict[str, Feature] = {}
    for modality in modalities:
        if modality == "relation":
            features[modality] = relation_bag(pair.triples, pair.num_entities, bag_size, width)
        elif modality == "attribute":
            if pair.attributes is None:
                raise DataError(f"{directory} has no attribute files; leave the modality 'attribute' out")
            features[modality] = attribute_bag(pair.attributes, pair.num_entities, bag_size, width)
        elif modality == "name":
            features[modality] = ngram_bag(name_words(pair), name_ngrams, name_buckets)
        elif modality == "word":
            features[modality] = word_bag(name_words(pair), name_buckets)
        else:
            raise DataError(f"unknown modality {modality!r}; known are {', '.join(MODALITIES)}")
    return pair.with_features(features)
