"""Spread over seeds, and differences between models that were run with the same seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from scipy.special import stdtrit


def t975(degrees: int) -> float:
    """The 97.5 % quantile of Student's t distribution with ``degrees`` degrees of freedom."""
    return float(stdtrit(degrees, 0.975))


def spread(values: Sequence[float | None]) -> dict[str, object] | None:
    """Mean and sample standard deviation of values; a value of None is left out.

    Returns:
        ``{"mean", "sd", "values"}``, rounded to three decimals; ``"sd"`` is None for a single
        value. None without any value.
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {
        "mean": round(statistics.fmean(known), 3),
        "sd": round(statistics.stdev(known), 3) if len(known) > 1 else None,
        "values": [round(value, 3) for value in known],
    }


def paired_difference(
    values: Mapping[int, float | None], baseline: Mapping[int, float | None]
) -> dict[str, object] | None:
    """Mean of ``value - baseline`` over the seeds that both have, with a 95 % confidence interval.

    Args:
        values, baseline: seed -> number.

    Returns:
        ``{"mean", "low", "high", "values"}``, rounded to three decimals. The interval is that of
        Student's t; ``"low"`` and ``"high"`` are None for one seed. None without a common seed.
    """
    differences = [
        value - baseline[seed]
        for seed, value in values.items()
        if value is not None and baseline.get(seed) is not None
    ]
    if not differences:
        return None
    count, mean = len(differences), statistics.fmean(differences)
    low = high = None
    if count > 1:
        half = t975(count - 1) * statistics.stdev(differences) / math.sqrt(count)
        low, high = round(mean - half, 3), round(mean + half, 3)
    return {
        "mean": round(mean, 3),
        "low": low,
        "high": high,
        "values": [round(difference, 3) for difference in differences],
    }
