"""A page to look at and decide on: one HTML file of a run or an alignment, with nothing fetched from anywhere."""

from loginmea_fast.report.page import can_write, write_report

__all__ = ["can_write", "write_report"]
