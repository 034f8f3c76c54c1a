"""Experiments of several runs.

A suite of runs -> one table: plan, run (skip, start again or resume, survive), collect, compare.
"""

from lambda_det.comparison.collect import collect
from lambda_det.comparison.running import execute
from lambda_det.comparison.suite import read_suite
from lambda_det.comparison.tables import comparison_tables, results_markdown

__all__ = ["collect", "comparison_tables", "execute", "read_suite", "results_markdown"]
