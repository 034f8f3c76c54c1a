"""The images of one update taken in parts, for batches that memory does not hold."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor

from lambda_det.errors import InputError, key


def check_accumulation(parts: int, images: int, processes: int) -> None:
    """Check that the images of an iteration can be divided.

    Args:
        parts: of a process's images.
        images: of all processes.
        processes: their number.

    Raises:
        InputError: a process's images cannot be divided evenly into so many parts.
    """
    if parts > 1 and images % (processes * parts):
        raise InputError(
            f"{key('SOLVER.ACCUMULATE')}={parts}: expected a number that "
            f"{key('SOLVER.IMS_PER_BATCH')} {images} is a multiple of, times the number of "
            f"processes, {processes}"
        )


def split(images: Sequence, parts: int) -> list[Sequence]:
    """The images in their order, in ``parts`` lists of the same length.

    Raises:
        InputError: they cannot be, as those of another loader than ours.
    """
    if parts == 1:  # a batch of any kind
        return [images]
    size, more = divmod(len(images), parts)
    if more or not size:
        raise InputError(
            f"{key('SOLVER.ACCUMULATE')}={parts}: is no divisor of a batch of {len(images)}"
        )
    return [images[start : start + size] for start in range(0, size * parts, size)]


def mean_losses(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean over the parts of every loss; what a part lacks counts as 0."""
    names = dict.fromkeys(name for losses in parts for name in losses)
    return {
        name: sum(losses[name] for losses in parts if name in losses) / len(parts) for name in names
    }


@contextlib.contextmanager
def measured_once(parts: int) -> Iterator[None]:
    """Let what the model puts into detectron2's storage in every part be one value, the mean."""
    if parts == 1:
        yield
        return
    outer = get_event_storage()
    with EventStorage(outer.iter) as inner:
        yield
    hints = inner.smoothing_hints()
    for name, history in inner.histories().items():
        values = [value for value, _ in history.values()]
        outer.put_scalar(name, sum(values) / len(values), smoothing_hint=hints[name])
    outer._vis_data.extend(inner._vis_data)
