"""Comparison of two runs: figures with confidence intervals, and the images whose verdict changed."""

from offnominal.comparison.run import Run, RunImage, read_run
from offnominal.comparison.side_by_side import Comparison, VerdictChange, compare, write_comparison

__all__ = ["Comparison", "Run", "RunImage", "VerdictChange", "compare", "read_run", "write_comparison"]
