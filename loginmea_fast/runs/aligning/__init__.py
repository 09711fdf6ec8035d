"""Aligning: matches between two graphs with a confidence, and the files that hold them."""

from loginmea_fast.runs.aligning.alignment import Alignment, BestCandidates
from loginmea_fast.runs.aligning.procedure import align, check_options
from loginmea_fast.runs.aligning.writing import check_directory, check_format

__all__ = ["Alignment", "BestCandidates", "align", "check_directory", "check_format", "check_options"]
