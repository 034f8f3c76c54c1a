"""What the compiler makes of the kernels of the ``"triton"`` back end, without a GPU.

    python -m studies.gpu.compiled [--architectures 80 90] [--dtypes bfloat16] [--record]

Compiles every kernel for the shapes of detectors, prints registers, shared memory and spills, and
ends with status 1 if a kernel is not as it should be. All take some minutes of one core.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from lambda_det.errors import InputError, exit_on_input_error, writing
from lambda_det.io import write_json
from lambda_det.records import make_record, record_path, results_folder
from studies.gpu.ahead_of_time import ARCHITECTURES, DTYPES, SHAPES, Shape, calls, compile_call
from studies.gpu.kernel_table import text_table

RECORD = "gpu_kernels"


@dataclass(frozen=True)
class Facts:
    """What is read from one compiled kernel.

    Attributes:
        warps, stages: Triton's ``num_warps`` and ``num_stages``.
        registers: of one thread.
        spilled_bytes: of one thread, on the stack in global memory.
        shared_bytes: of one program.
        products: instruction of the matrix products on tensor cores, ``"none"`` without any.
        load_bytes, store_bytes: bytes that a thread moves with one instruction from and to global
            memory, of the narrowest such instruction.
    """

    warps: int
    stages: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    products: str
    load_bytes: int
    store_bytes: int


def facts(kernel: Any) -> Facts:
    """Read the facts of a kernel that Triton has compiled for a GPU of NVIDIA."""
    ptx, use = kernel.asm["ptx"], _resource_use(kernel.asm["cubin"])
    found = [name for name in ("tcgen05.mma", "wgmma.mma_async", "mma.sync") if name in ptx]
    copies = re.findall(r"cp\.async\.c[ag]\.shared\.global[^;]*?,\s*(0x[0-9a-f]+|\d+)\s*[,;]", ptx)
    loads = [int(size, 0) for size in copies] + _widths("ld", ptx)
    return Facts(
        warps=kernel.metadata.num_warps,
        stages=kernel.metadata.num_stages,
        registers=use["REG"],
        spilled_bytes=use["STACK"] + use["LOCAL"],
        shared_bytes=kernel.metadata.shared,
        products=found[0] if found else "none",
        load_bytes=min(loads),
        store_bytes=min(_widths("st", ptx)),
    )


def _widths(instruction: str, ptx: str) -> list[int]:
    """Bytes of each load (ld) or store (st) of global memory through registers."""
    pattern = rf"\b{instruction}\.global[\w.:]*?(?:\.v(\d))?\.[bfsu](\d+)\s"
    return [int(many or 1) * int(bits) // 8 for many, bits in re.findall(pattern, ptx)]


def _resource_use(cubin: bytes) -> dict[str, int]:
    """What ``cuobjdump``, which comes with Triton, says of the only kernel of a binary."""
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(number) for name, number in re.findall(r"\b([A-Z]+):(\d+)", text)}


def faults(found: Facts, architecture: int, dtype: torch.dtype) -> list[str]:
    """What is not as it should be. Only half precision is held to tensor cores and no spills."""
    lines = []
    limit = ARCHITECTURES[architecture]
    if found.shared_bytes > limit:
        lines.append(f"needs {found.shared_bytes} bytes of shared memory, the GPU has {limit}")
    if dtype.itemsize == 2 and found.spilled_bytes:
        lines.append(f"spills {found.spilled_bytes} bytes a thread")
    if dtype.itemsize == 2 and found.products == "none":
        lines.append("does not use tensor cores")
    if min(found.load_bytes, found.store_bytes) < 16:
        lines.append(f"loads {found.load_bytes} and stores {found.store_bytes} bytes at a time")
    return lines


def compile_all(
    architectures: Iterable[int], dtypes: Iterable[torch.dtype], shapes: Iterable[Shape]
) -> list[dict]:
    """Compile every kernel for all of these.

    Returns:
        A row for each architecture, dtype, kernel and number of channels with equal :class:`Facts`;
        ``shapes`` lists the sizes.
    """
    rows: dict[tuple, list[str]] = {}
    for dtype in dtypes:
        for shape in shapes:
            size = f"{shape.images}x{shape.height}x{shape.width}"
            for call in calls(shape, dtype):
                for architecture in architectures:
                    found = facts(compile_call(call, architecture))
                    key = (architecture, _name(dtype), call.name, shape.channels, found)
                    sizes = rows.setdefault(key, [])
                    if size not in sizes:  # the chunks of a pass differ in their first row only
                        sizes.append(size)
    names = ("architecture", "dtype", "kernel", "channels")
    return [
        dict(zip(names, key, strict=False)) | {"shapes": sizes} | asdict(key[-1])
        for key, sizes in sorted(rows.items(), key=lambda row: row[0][:4])
    ]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--architectures", type=int, nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--dtypes", nargs="+", default=[_name(dtype) for dtype in DTYPES])
    parser.add_argument("--record", action="store_true", help=f"write results/{RECORD}.json")
    args = parser.parse_args(argv)
    if importlib.util.find_spec("triton") is None:
        raise InputError("Triton is not installed; PyTorch's wheels for CUDA bring it")
    by_name = {_name(dtype): dtype for dtype in DTYPES}
    for flag, given, allowed in (
        ("--architectures", args.architectures, ARCHITECTURES),
        ("--dtypes", args.dtypes, by_name),
    ):
        for value in given:
            if value not in allowed:
                names = ", ".join(map(str, allowed))
                raise InputError(f"{flag} {value}: expected some of {names}")
    rows = compile_all(args.architectures, [by_name[name] for name in args.dtypes], SHAPES)
    print(text_table(rows))
    wrong = 0
    for row in rows:
        found = Facts(**{name: row[name] for name in Facts.__dataclass_fields__})
        for line in faults(found, row["architecture"], by_name[row["dtype"]]):
            wrong += 1
            where = f"sm_{row['architecture']} {row['dtype']} {', '.join(row['shapes'])}"
            print(f"{row['kernel']}, {where}: {line}")
    if args.record:
        path = record_path(str(results_folder()), RECORD)
        command = "python -m studies.gpu.compiled --record"
        with writing(path):
            record = make_record(command, rows, packages=["triton"], with_gpu=False)
            write_json(record, path)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
