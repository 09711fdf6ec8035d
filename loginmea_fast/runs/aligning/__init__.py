"""Aligning: matches between two graphs with a confidence, and the files that hold them."""

from loginmea_fast.runs.aligning.alignment import Alignment, BestCandidates
from loginmea_fast.runs.aligning.decisions import Decisions, read_decisions
from loginmea_fast.runs.aligning.formats import check_format
from loginmea_fast.runs.aligning.procedure import align, check_options
from loginmea_fast.runs.aligning.reading import MatchFile, read_matches, spelt_alike
from loginmea_fast.runs.aligning.writing import check_directory

__all__ = [
    "Alignment",
    "BestCandidates",
    "Decisions",
    "MatchFile",
    "align",
    "check_directory",
    "check_format",
    "check_options",
    "read_decisions",
    "read_matches",
    "spelt_alike",
]
