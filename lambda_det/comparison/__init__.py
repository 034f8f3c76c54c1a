"""Experiments of several runs: train the models of a suite, and compare them in one table.

:func:`read_suite` plans the runs, :func:`execute` trains those that have not finished (a failed run
does not stop the others), :func:`collect` reads what they measured, and
:func:`results_markdown` writes the tables.
"""

from lambda_det.comparison.collect import collect
from lambda_det.comparison.running import execute
from lambda_det.comparison.suite import read_suite
from lambda_det.comparison.tables import comparison_tables, results_markdown

__all__ = ["collect", "comparison_tables", "execute", "read_suite", "results_markdown"]
