"""How ``backend="auto"`` chooses a back end by measurement, on a GPU and on a CPU alike.

At the first call of a kind, the candidates compute copies of its tensors. One whose result is not
that of ``"conv"`` is left out; of the others the fastest is taken, for every later call of that
kind: in this process, in later ones of the same environment by a file in the user's cache folder,
and in a resumed training by its checkpoint (:mod:`lambda_det.engine.backend_choices`).

A kind of call is: the types of the tensors, which of them get a gradient, the memory format, and
the sizes. Batch, height, width and window are rounded to powers of the square root of 2, so that a
training on images of many sizes measures some ten times for each shape of its layers, and not at
every batch; within 19 % of a size the order of the back ends changes only where they are about
equally fast.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lambda_det.errors import InputError
from lambda_det.layers import native_lambda, triton_lambda
from lambda_det.layers.choice import choose_backend
from lambda_det.layers.choices import CHOICES, decides
from lambda_det.layers.measurement import BackEnd, fastest_right_one
from lambda_det.layers.memory_layout import is_channels_last
from lambda_det.layers.precision import tf32_is_allowed
from lambda_det.records import cpu_name

logger = logging.getLogger(__name__)

CANDIDATES = {"cpu": ("conv", "banded", "native"), "cuda": ("conv", "triton")}
"""Type of a device -> the back ends among which ``"auto"`` chooses there. The first one is what the
others are checked against, and what is taken if none of them is right."""

UNSUPPORTED: dict[str, Callable[[Tensor, Tensor, Tensor], str | None]] = {
    "triton": triton_lambda.unsupported,
    "native": native_lambda.unsupported,  # compiles its kernels, once for a machine
}
"""Back end -> a function that returns the reason why it cannot compute its arguments, or None."""

TRIES = 3
"""Calls of a kind whose numbers let nothing be compared, before the rule decides for that kind."""

VARIABLE = "LAMBDA_DET_AUTOTUNE"
"""Environment variable; 0 forbids every measurement."""


def is_allowed() -> bool:
    """Whether the environment variable allows to measure.

    Raises:
        InputError: it is neither 0 nor 1.
    """
    value = os.environ.get(VARIABLE, "1")
    if value not in ("", "0", "1"):
        raise InputError(f"{VARIABLE}={value!r}: expected 0 (nothing is measured) or 1")
    return value != "0"


def measured_backend(
    query: Tensor, value: Tensor, embedding: Tensor, backends: Mapping[str, BackEnd]
) -> str | None:
    """The back end that is chosen by measurement, now or at an earlier call of this kind.

    Args:
        query, value, embedding: as in :func:`lambda_det.layers.position_lambda`, the embedding
            cropped to the image.
        backends: name -> back end.

    Returns:
        The name of a back end; None where nothing is measured, so that the rule of
        :mod:`lambda_det.layers.choice` decides. Other processes than the first of several measure
        nothing; they take what that one has chosen, once they know it.
    """
    tensors = (query, value, embedding)
    names = CANDIDATES.get(query.device.type, ())
    if not names or not CHOICES.active or not is_allowed() or not all(map(_is_plain, tensors)):
        return None
    environment, call = environment_of(query.device), kind_of(*tensors)
    known = CHOICES.get(environment, call)
    if known in names:
        return known
    names = tuple(n for n in names if n not in UNSUPPORTED or UNSUPPORTED[n](*tensors) is None)
    if len(names) < 2 or _is_watched(query):
        return None
    if not decides() and CHOICES.shared:
        return None
    known = CHOICES.remembered(environment, call)
    if known in names:
        logger.info("position lambda: %r for %s (measured earlier)", known, call)
    elif not decides():
        return None
    else:
        found = fastest_right_one({name: backends[name] for name in names}, tensors, call)
        if found is None:  # the next call may have other numbers
            CHOICES.vain[call] += 1
            if CHOICES.vain[call] < TRIES:
                return None
            found = choose_backend(*tensors), False
            logger.info(
                "position lambda: %r for %s, by the rule: in %d calls, the result of %r was zero, "
                "or it or a gradient was not finite", found[0], call, TRIES, names[0],
            )  # fmt: skip
        known, all_are_right = found
        if all_are_right:  # a later process looks again at one that failed here
            CHOICES.remember(environment, call, known)
    CHOICES.add(environment, call, known)
    return known


# ---- what a choice belongs to ----


def kind_of(query: Tensor, value: Tensor, embedding: Tensor) -> str:
    """The kind of a call, as text; sizes that vary with the image are rounded."""
    tensors = (query, value, embedding)
    needs: tuple[bool, ...] = ()
    if torch.is_grad_enabled():
        needs = query.requires_grad, value.requires_grad, embedding.requires_grad
    return _kind(
        tuple(tensor.shape for tensor in tensors),
        tuple(tensor.dtype for tensor in tensors),
        needs,
        is_channels_last(value),
    )


@functools.lru_cache(maxsize=4096)  # every lambda layer asks at every call
def _kind(
    shapes: tuple[tuple[int, ...], ...],
    types: tuple[torch.dtype, ...],
    needs: tuple[bool, ...],
    channels_last: bool,
) -> str:
    (batch, heads, depth, height, width), (_, u, channels, *_), (_, _, rows, columns) = shapes
    n, y, x, dy, dx = map(_rounded, (batch, height, width, rows, columns))
    named = " ".join(str(each).removeprefix("torch.") for each in types)
    task = "training " + "".join(c for c, need in zip("qve", needs, strict=False) if need)
    return (
        f"{task if any(needs) else 'inference'}, {named}, N {n}, h {heads}, k {depth}, u {u}, "
        f"v {channels}, about {y} x {x}, window about {dy} x {dx}"
        f"{', channels last' if channels_last else ''}"
    )


def _rounded(size: int) -> int:
    """The power of the square root of 2 that is nearest to a size, as a whole number."""
    return round(2 ** (round(2 * math.log2(size)) / 2))


def environment_of(device: torch.device) -> str:
    """What the times depend on besides the call, as text."""
    if device.type == "cpu":
        setting = f", {torch.get_num_threads()} threads"
    else:  # these decide which kernels cuDNN and cuBLAS take
        cudnn, (matmul_tf32, convolution_tf32) = torch.backends.cudnn, tf32_is_allowed()
        flags = {
            "cudnn.benchmark": cudnn.benchmark,
            "cudnn.deterministic": cudnn.deterministic,
            "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
            "TF32 in products": matmul_tf32,
            "TF32 in convolutions": convolution_tf32,
        }
        setting = "".join(f", {name}" for name, is_set in flags.items() if is_set)
    return f"{_machine(device)}{setting}; torch {torch.__version__}; {_kernels()}"


@functools.cache
def _machine(device: torch.device) -> str:
    if device.type == "cpu":
        return f"{cpu_name()}, {torch.backends.cpu.get_cpu_capability()}"
    triton = ""
    if triton_lambda.INSTALLED:
        from lambda_det.layers import triton_kernels  # imports Triton, which takes a while

        triton = f", triton {triton_kernels.triton.__version__}"
    return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}{triton}"


@functools.cache
def _kernels() -> str:
    """The version of the kernels: a digest of the sources in this folder and in native/."""
    folder = Path(__file__).parent
    files = sorted([*folder.glob("*.py"), *folder.glob("native/*.[ch]*")])
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files))
    return f"kernels {digest.hexdigest()[:12]}"


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor has numbers: it is not empty, and of no other class, such as FakeTensor."""
    return type(tensor) in (Tensor, nn.Parameter) and tensor.numel() > 0


def _is_watched(query: Tensor) -> bool:
    """Whether operators are recorded or counted now: measurements would be among them."""
    if query.is_cuda and torch.cuda.is_current_stream_capturing():
        return True
    # PyTorch has no public function for this.
    current = getattr(torch.utils._python_dispatch, "_get_current_dispatch_mode", lambda: None)
    return current() is not None
