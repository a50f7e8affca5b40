"""Measurements to one HTML file that says what happened, when, and how sure that is."""

from __future__ import annotations

from grokscope.report.csv_files import csv_files
from grokscope.report.figures import figure_svg, make_figure
from grokscope.report.page import Facts, render_page
from grokscope.report.write import default_out, write_report

__all__ = [
    "Facts",
    "csv_files",
    "default_out",
    "figure_svg",
    "make_figure",
    "render_page",
    "write_report",
]
