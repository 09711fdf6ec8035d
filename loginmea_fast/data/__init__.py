"""Data sets: readers (one a layout), features, validation, a writer, and the embedded pair.

``load(directory)`` gives an :class:`AlignmentPair`; whatever is wrong with its files is one sentence, a DataError.
"""

from loginmea_fast.data.feature_store import FeatureStore
from loginmea_fast.data.formats import Format, ReadOptions, format_names, register_format
from loginmea_fast.data.labeled import LabeledGraph, LabeledLinks
from loginmea_fast.data.loading import load, load_embedded
from loginmea_fast.data.missing import stand_in
from loginmea_fast.data.pair import AlignmentPair
from loginmea_fast.data.reading import read_graph, read_seeds
from loginmea_fast.data.saving import save
from loginmea_fast.data.split import Split
from loginmea_fast.data.synthetic import Synthetic, generate
from loginmea_fast.data.tables import AttributeTable, Feature, ValueTable

__all__ = [
    "AlignmentPair",
    "AttributeTable",
    "Feature",
    "FeatureStore",
    "Format",
    "LabeledGraph",
    "LabeledLinks",
    "ReadOptions",
    "Split",
    "Synthetic",
    "ValueTable",
    "format_names",
    "generate",
    "load",
    "load_embedded",
    "read_graph",
    "read_seeds",
    "register_format",
    "save",
    "stand_in",
]
