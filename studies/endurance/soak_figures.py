"""Growth of a training's memory, handles and threads, and the limits of the verdict "flat"."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lambda_det.errors import InputError
from studies.endurance.process_tree import Identity, Usage

HORIZON = 100_000
"""Number of iterations for which growth is projected, more than the paper's longest training."""
GROWTH = 0.1
"""A training is flat if its memory grows by less than this share over :data:`HORIZON`, by the slope
plus two standard errors."""
HANDLES = 5
"""A training is not flat if the maximum of its handles or threads grows by this number from the
second to the last quarter. A leak of one for each checkpoint would be more."""


@dataclass(frozen=True)
class Sample:
    """Usage of the processes of a training at one moment."""

    iteration: int
    tree: Mapping[Identity, Usage]


@dataclass
class Series:
    """Memory in KiB by iteration."""

    iterations: list[int] = field(default_factory=list)
    kib: list[float] = field(default_factory=list)

    def quarter(self, number: int) -> list[float]:
        """The values of a quarter of the iterations, 1 (first) to 4 (last)."""
        return [self.kib[i] for i in _quarter(self.iterations, number)]

    def second_half(self) -> Series:
        middle = _middle(self.iterations)
        kept = [i for i, iteration in enumerate(self.iterations) if iteration > middle]
        return Series([self.iterations[i] for i in kept], [self.kib[i] for i in kept])


def memory(samples: Sequence[Sample], which: Callable[[int], bool] = lambda place: True) -> Series:
    """For every sampled iteration, the lowest sum of memory over the processes, in KiB.

    The lowest is taken, because memory rises and falls within an iteration.

    Args:
        samples: samples of the run.
        which: chooses the processes to sum over by their place in the tree; 0 is the training.
    """
    by_iteration: dict[int, list[int]] = {}
    for sample in samples:
        kib = [usage.rss_kib for place, usage in enumerate(sample.tree.values()) if which(place)]
        by_iteration.setdefault(sample.iteration, []).append(sum(kib))
    return Series(list(by_iteration), [min(kib) for kib in by_iteration.values()])


def slope(series: Series) -> tuple[float, float]:
    """Least-squares slope in KiB per iteration, and its standard error for independent residuals.

    Raises:
        InputError: there are fewer than three iterations.
    """
    x, y = series.iterations, series.kib
    if len(x) < 3:
        raise InputError(f"{len(x)} samples in the second half: at least 3 are needed")
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    value = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
    left = (b - mean_y - value * (a - mean_x) for a, b in zip(x, y, strict=True))
    return value, math.sqrt(sum(r * r for r in left) / (len(x) - 2) / spread)


def figures(samples: Sequence[Sample], *, segments_left: int, processes_left: int) -> dict:
    """Make the row of a record; its verdict is ``"flat"``, or names what grows or is left.

    Args:
        samples: samples in the order of their iterations.
        segments_left: number of shared memory segments that exist after the training.
        processes_left: number of its processes that still run after the training.

    Raises:
        InputError: there are too few samples.
    """
    whole = memory(samples)
    second = whole.second_half()
    value, error = slope(second)
    rss = statistics.median(second.kib)
    parts = {"training": lambda place: place == 0, "workers": lambda place: place > 0}
    quarters = {
        name: [_most(samples, number, name) for number in range(1, 5)]
        for name in ("handles", "threads")
    }
    upper = (value + 2 * error) * HORIZON / rss
    reasons = [
        f"memory may grow by {100 * upper:.1f} % over {HORIZON} iterations"
        for _ in range(upper >= GROWTH)
    ]
    reasons += [
        f"{name} grow from {counts[1]} to {counts[3]}"
        for name, counts in quarters.items()
        if counts[3] - counts[1] >= HANDLES
    ]
    reasons += [f"{segments_left} shared memory segments are left"] * bool(segments_left)
    reasons += [f"{processes_left} processes are left"] * bool(processes_left)
    return {
        "iterations": samples[-1].iteration,
        "samples": len(samples),
        "processes": len(samples[-1].tree),
        "rss_mib": round(rss / 1024, 1),
        "rss_slope_kib_per_iteration": round(value, 3),
        "standard_error_of_the_slope": round(error, 3),
        **{
            f"rss_slope_of_the_{name}_kib_per_iteration": round(
                slope(memory(samples, which).second_half())[0], 3
            )
            for name, which in parts.items()
        },
        "rss_median_of_last_quarter_minus_second_kib": round(
            statistics.median(whole.quarter(4)) - statistics.median(whole.quarter(2))
        ),
        "projected_growth_over_100000_iterations_percent": round(100 * value * HORIZON / rss, 2),
        "upper_end_of_the_growth_percent": round(100 * upper, 2),
        **{
            f"most_{name}_by_quarter": ", ".join(map(str, counts))
            for name, counts in quarters.items()
        },
        "shared_memory_segments_left": segments_left,
        "processes_left": processes_left,
        "verdict": "; ".join(reasons) or "flat",
    }


def _most(samples: Sequence[Sample], number: int, name: str) -> int:
    places = _quarter([sample.iteration for sample in samples], number)
    sums = [sum(getattr(usage, name) for usage in samples[i].tree.values()) for i in places]
    if not sums:
        raise InputError(f"no sample in quarter {number} of the training")
    return max(sums)


def _middle(iterations: Sequence[int]) -> float:
    return (iterations[0] + iterations[-1]) / 2


def _quarter(iterations: Sequence[int], number: int) -> list[int]:
    first, length = iterations[0], (iterations[-1] - iterations[0]) / 4
    low, high = first + (number - 1) * length, first + number * length
    return [i for i, at in enumerate(iterations) if (low < at or number == 1) and low <= at <= high]
