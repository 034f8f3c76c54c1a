"""Spread over seeds, and differences between models that were run with the same seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

# Student's t, 97.5 %, for 1 to 30 degrees of freedom.
_T975 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip
_Z975 = 1.959964


def t975(degrees: int) -> float:
    """97.5 % quantile of Student's t, to 4 digits.

    Above 30 degrees of freedom by the first two terms of its expansion about the normal's
    (Abramowitz and Stegun, 26.7.5).
    """
    if degrees <= len(_T975):
        return _T975[degrees - 1]
    z = _Z975
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def spread(values: Sequence[float | None]) -> dict[str, object] | None:
    """Mean and sample standard deviation (null for a single value), and the values themselves.

    None among the values is left out; None without any value.
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
    """Mean of ``value - baseline`` over the seeds that both have, with a 95 % interval.

    Args:
        values, baseline: seed -> number.

    Returns:
        ``{"mean", "low", "high", "values"}``; the interval, by Student's t, is None for one seed;
        None without a common seed.
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
