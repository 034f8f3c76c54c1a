"""Checkpoints of a training: written whole, read without running code, a number of them kept."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from torch import nn

from lambda_det.checkpoint.reading import read_file
from lambda_det.errors import InputError, reason_of
from lambda_det.io import remove_leftovers, save_atomically, write_atomically

logger = logging.getLogger(__name__)

POINTER = "last_checkpoint"
FINAL = "model_final.pth"
_NUMBERED = re.compile(r"model_(\d{7,})\.pth")


class RunCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer of one folder, with the same files and the same names.

    Args:
        model: the detector.
        folder: ``OUTPUT_DIR``.
        keep: how many ``model_*.pth`` of this run stay there; 0 is all.
        metadata: entries that every file has besides.
        checkpointables: what has ``state_dict()`` and ``load_state_dict()``.
    """

    def __init__(
        self,
        model: nn.Module,
        folder: str,
        *,
        keep: int = 0,
        metadata: Mapping[str, object] | None = None,
        **checkpointables,
    ) -> None:
        super().__init__(model, folder, **checkpointables)
        self._keep, self._metadata = keep, dict(metadata or {})

    def save(self, name: str, **kwargs: object) -> None:
        """Write ``NAME.pth`` and the pointer to it, and remove what is more than ``keep``.

        Raises:
            InputError: the disk is full or cannot be written; the earlier files are as they were.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: item.state_dict() for key, item in self.checkpointables.items()}
        path = os.path.join(self.save_dir, f"{name}.pth")
        logger.info("saving %s", path)
        self.write({"model": self.model.state_dict(), **states, **kwargs}, path)
        self.tag_last_checkpoint(os.path.basename(path))
        self._remove_older(os.path.basename(path))

    def write(self, content: Mapping[str, object], path: str) -> None:
        """Write a checkpoint whole or not at all."""
        save_atomically({**self._metadata, **content}, path)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Let ``last_checkpoint`` name a file."""
        text = last_filename_basename.encode()
        write_atomically(os.path.join(self.save_dir, POINTER), lambda file: file.write(text))

    def remove_leftovers(self) -> None:
        """Remove the half-written files of a killed process."""
        if self.save_to_disk and os.path.isdir(self.save_dir):
            for name in remove_leftovers(self.save_dir):
                logger.info("removed %s, which a killed process has left half-written", name)

    def resume(self) -> str | None:
        """Load the last whole checkpoint, the same in all processes, and return its path.

        None where the folder has no ``last_checkpoint``, as detectron2 has it.

        Raises:
            InputError: no checkpoint of the folder is whole, or it is another network's.
        """
        # Process 0 looks for all of them, and what it says holds.
        found: str | InputError | None = None
        if comm.is_main_process() and self.has_checkpoint():
            try:
                found = self._last_whole()
            except InputError as error:
                found = error
        found = comm.all_gather(found)[0]
        if isinstance(found, InputError):
            raise found
        if found is None:
            return None
        try:
            self.load(found)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            reason = reason_of(error)[:200]
            raise InputError(f"--resume: {found} is of another training ({reason})") from error
        return found

    def _last_whole(self) -> str:
        """The file that is pointed to, or the newest before it that is whole."""
        pointed, numbers = self._pointed(), self._numbers()
        match = _NUMBERED.fullmatch(pointed)
        earlier = [n for n in sorted(numbers, reverse=True) if match is None or n < int(match[1])]
        reason = ""
        for name in [*filter(None, [pointed]), *(numbers[n] for n in earlier)]:
            path = os.path.join(self.save_dir, name)
            try:
                content = read_file(path)
                if not isinstance(content, dict) or not {"model", "trainer"} <= content.keys():
                    raise InputError(f"{path}: holds no training's state")
            except InputError as error:
                reason = reason or f" ({str(error).removeprefix(f'{path}: ')})"
                logger.debug("%s", error)
                continue
            if reason:
                logger.warning(
                    "--resume: %s cannot be read%s; going on from %s, the last whole checkpoint",
                    pointed or POINTER, reason, name,
                )  # fmt: skip
            return path
        raise InputError(
            f"--resume: the last checkpoint {os.path.join(self.save_dir, pointed or POINTER)} "
            f"cannot be read{reason}, and there is no whole one before it; remove "
            f"{os.path.join(self.save_dir, POINTER)} to start anew"
        )

    def _pointed(self) -> str:
        """The name in ``last_checkpoint``; "" where a power cut left nothing of it."""
        with open(os.path.join(self.save_dir, POINTER), encoding="utf-8", errors="replace") as file:
            name = file.read().strip().strip("\0")
        return name if name and os.path.basename(name) == name else ""

    def _numbers(self) -> dict[int, str]:
        matches = map(_NUMBERED.fullmatch, os.listdir(self.save_dir))
        return {int(match[1]): match[0] for match in matches if match}

    def _remove_older(self, newest: str) -> None:
        match = _NUMBERED.fullmatch(newest)
        if self._keep < 1 or match is None:
            return
        # What has a higher number is of another run.
        numbers = {n: name for n, name in self._numbers().items() if n <= int(match[1])}
        for number in sorted(numbers)[: -self._keep]:
            os.unlink(os.path.join(self.save_dir, numbers[number]))

    def _load_file(self, filename: str) -> dict[str, object]:
        return read_file(filename)  # runs nothing that the file may name

    def _load_model(self, checkpoint: dict) -> object:
        theirs, ours = (c.get("metadata", {}).get("classes") for c in (checkpoint, self._metadata))
        if theirs is not None and ours is not None and theirs != ours:
            raise ValueError(
                f"{len(theirs)} classes, first {theirs[0]!r}; the data has {len(ours)}, first "
                f"{next((own for own in ours if own not in theirs), ours[0])!r}"
            )
        incompatible = super()._load_model(checkpoint)
        # detectron2 goes on with whatever fits.
        missing = [name for name in incompatible.missing_keys if not _is_counter(name)]
        wrong = [name for name, *_ in incompatible.incorrect_shapes]
        if missing or wrong:
            raise ValueError(f"another network's weights, first {(missing + wrong)[0]}")
        return incompatible


def _is_counter(name: str) -> bool:
    # A buffer that FrozenBatchNorm2d has in later versions of detectron2 only.
    return name.endswith("num_batches_tracked")
