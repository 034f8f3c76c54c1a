"""The file formats: functions that export a module to a file and functions that run the file."""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lambda_det.errors import InputError
from lambda_det.export.checking import Function

FORMATS = ("torchscript", "torch_export", "onnx")
SUFFIXES = {"torchscript": ".ts", "torch_export": ".pt2", "onnx": ".onnx"}
OPSET = {"backbone": 18, "detector": 16}


def write(
    form: nn.Module,
    example: Tensor,
    path: str,
    *,
    format: str,
    what: str,
    multiple: int = 32,
    largest: tuple[int, int] | None = None,
) -> None:
    """Export ``form`` to a file that accepts any H and W.

    Args:
        form: a :class:`~lambda_det.export.forms.BackboneForm`, or what
            :func:`~lambda_det.export.forms.detector_form` returns.
        example: an input. H and W are dynamic in the exported graph; the other axes keep the sizes
            that they have in ``example``.
        path: path of the file.
        format: one of :data:`FORMATS`.
        what: ``"backbone"`` or ``"detector"``.
        multiple: H and W are multiples of this number; ``torch.export`` needs to know it.
        largest: largest (H, W) that a global scope covers; None = any.

    Raises:
        InputError: the format cannot hold the model.
    """
    if format == "torch_export" and what == "detector":
        raise InputError(
            f"--format {format} --what {what}: torch.export cannot record detectron2's code, where "
            "the number of boxes depends on the image; use --format torchscript or onnx, or --what "
            "backbone"
        )
    with naming(format, what), torch.no_grad():
        if format == "torchscript":
            torch.jit.save(torch.jit.trace(form, (example,), check_trace=False), path)
        elif what == "detector":
            # The older exporter (dynamo=False), for which torchvision defines NMS and RoIAlign.
            torch.onnx.export(
                form,
                (example,),
                path,
                dynamo=False,
                opset_version=OPSET[what],
                input_names=["image"],
                output_names=list(form.names),
                dynamic_axes={"image": {1: "height", 2: "width"}}
                | {name: {0: "detections"} for name in form.names},
            )
            form.eval()
        else:
            program = torch.export.export(
                form, (example,), dynamic_shapes=(_sides(multiple, largest),), strict=False
            )
            if format == "torch_export":
                torch.export.save(program, path)
                return
            torch.onnx.export(
                program,
                (),
                path,
                dynamo=True,
                external_data=False,
                opset_version=OPSET[what],
                input_names=["image"],
                output_names=list(form.names),
                verbose=False,
            )


@contextlib.contextmanager
def naming(format: str, what: str) -> Iterator[None]:
    """A context that turns errors of PyTorch's exporters into one line and hides their warnings.

    The exporters warn of values that they record as constants. Running the file at a second size
    checks this instead.

    Raises:
        InputError: instead of any other exception.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            first = next(iter(str(error).strip().splitlines()), "")
            raise InputError(
                f"--format {format} --what {what}: PyTorch {torch.__version__} cannot export this "
                f"model ({type(error).__name__}: {first})"
            ) from error


def read(path: str, format: str, names: Sequence[str]) -> Function:
    """Load the file as a function from one input to named outputs.

    Loading a TorchScript or ``torch.export`` file can run code, so use this only for a file that
    this process has written.

    Args:
        path: path of the file.
        format: one of :data:`FORMATS`.
        names: names of the outputs, in order.
    """
    if format == "onnx":
        return _onnx_session(path, names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns that TorchScript is deprecated
        loaded = (
            torch.jit.load(path) if format == "torchscript" else torch.export.load(path).module()
        )
    return lambda x: dict(zip(names, loaded(x), strict=True))


def need(format: str) -> None:
    """Check that the packages which a format needs are installed.

    Raises:
        InputError: a package is missing; the message names all that are.
    """
    if format != "onnx":
        return
    names = ("onnx", "onnxruntime", "onnxscript")
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"--format onnx needs {', '.join(missing)}: pip install onnx onnxruntime onnxscript, "
            "or lambda_det[export]"
        )


def _sides(multiple: int, largest: tuple[int, int] | None) -> dict[int, object]:
    """Axis -> dynamic dimension for ``torch.export``, a multiple of ``multiple``.

    The smallest factor is 2, because ``torch.export`` treats the size 1 as a constant.
    """
    dimensions = {}
    for axis, name in ((2, "H"), (3, "W")):
        limit = {} if largest is None else {"max": largest[axis - 2] // multiple}
        dimensions[axis] = multiple * torch.export.Dim(f"{name}_{multiple}", min=2, **limit)
    return dimensions


def _onnx_session(path: str, names: Sequence[str]) -> Function:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> dict[str, Tensor]:
        outputs = session.run(list(names), {session.get_inputs()[0].name: x.cpu().numpy()})
        return {n: torch.from_numpy(array) for n, array in zip(names, outputs, strict=True)}

    return run
