"""Data sets: readers (one a layout), features, validation, and the embedded pair.

``load(directory)`` gives an :class:`AlignmentPair`; everything wrong with its files is one DataError sentence.
"""

from loginmea_fast.data.formats import Format, format_names, register_format
from loginmea_fast.data.loading import load
from loginmea_fast.data.pair import AlignmentPair, AttributeTable, Feature, Split

__all__ = [
    "AlignmentPair",
    "AttributeTable",
    "Feature",
    "Format",
    "Split",
    "format_names",
    "load",
    "register_format",
]
