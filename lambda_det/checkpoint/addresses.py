"""``timm://`` and ``torchvision://`` as values of MODEL.WEIGHTS.

The library that owns the weights fetches them into its own cache; they are converted to our names
and the converted file is what detectron2's PathManager returns, to any trainer.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re

from detectron2.utils.file_io import PathHandler, PathManager
from iopath.common.file_io import file_lock, get_cache_dir
from torch import Tensor

from lambda_det.checkpoint.conversion import convert
from lambda_det.checkpoint.coverage import report
from lambda_det.checkpoint.images import IMAGENET, ImageFormat
from lambda_det.checkpoint.reading import FileContent
from lambda_det.checkpoint.rules import LoadingRules
from lambda_det.checkpoint.source import Source, read_source, translate
from lambda_det.checkpoint.writing import write_weights
from lambda_det.errors import InputError

logger = logging.getLogger(__name__)

MIRROR_VARIABLE = "LAMBDA_DET_WEIGHTS_MIRROR"
"""Environment variable: a folder that is looked into before anything is fetched."""

DEFAULT_TORCHVISION_TAG = "IMAGENET1K_V1"
"""Of ``torchvision://resnet101``: the weights of the published detection baselines."""

_SUFFIXES = (".safetensors", ".pth", ".bin", ".pkl")
# By name, because some others (resnetblur50, ...) have the same tensors and another function.
_TIMM_MODELS = re.compile(
    r"resnetrs\d+|resnet(?:50|101|152|200)|lambda_resnet(?:26t|50ts|26rpt_256)"
)
_CACHE_FORMAT = 2  # raised when a conversion changes


class _WeightsHandler(PathHandler):
    """Reads addresses of one scheme."""

    scheme = ""

    def _get_supported_prefixes(self) -> list[str]:
        return [f"{self.scheme}://"]

    def _get_local_path(self, path: str, force: bool = False, **kwargs) -> str:
        """The converted file.

        Raises:
            InputError: it is not to be had; the line says what to do without a network.
        """
        name = path.removeprefix(f"{self.scheme}://").strip("/")
        mirrored = self._mirrored(name)
        identity = path
        if mirrored:
            status = os.stat(mirrored)
            identity = f"{os.path.realpath(mirrored)} {status.st_size} {status.st_mtime_ns}"
        digest = hashlib.sha256(f"{_CACHE_FORMAT} {identity}".encode()).hexdigest()[:12]
        folder = os.path.join(get_cache_dir(), "lambda_det")
        target = os.path.join(folder, f"{self.scheme}-{name.replace('/', '-')}-{digest}.pth")
        os.makedirs(folder, exist_ok=True)
        with file_lock(target):
            if force or not os.path.isfile(target):
                source = read_source(mirrored) if mirrored else self._fetch(name)
                logger.info("%s: converting %s", path, mirrored or "what was fetched")
                self._write(path, source, target)
        return target

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs):
        return open(self._get_local_path(path), mode, buffering=buffering)

    def _isfile(self, path: str, **kwargs) -> bool:
        try:
            return os.path.isfile(self._get_local_path(path))
        except InputError:
            return False

    _exists = _isfile

    def _write(self, path: str, source: Source, target: str) -> None:
        conversion = convert(source)
        logger.info("%s (%s)\n%s", path, source.title, report(conversion.coverage))
        # Whole, whatever the config allows: the file is there for every later config too.
        rules = LoadingRules(min_coverage_name=f"{self.scheme}://")
        rules.check(conversion.coverage, path)
        write_weights(
            target,
            conversion.tensors,
            architecture=conversion.architecture,
            images=conversion.images,
            origin=path,
        )

    def _mirrored(self, name: str) -> str | None:
        folder = os.environ.get(MIRROR_VARIABLE)
        if not folder:
            return None
        if not os.path.isdir(folder):
            raise InputError(f"{MIRROR_VARIABLE}={folder!r}: no such folder")
        for candidate in self.mirror_names(name):
            path = os.path.join(folder, candidate)
            if os.path.isfile(path):
                return path
        return None

    def mirror_names(self, name: str) -> list[str]:
        """File names that a mirror may have, in the order in which they are looked for."""
        named = [name + suffix for suffix in _SUFFIXES]
        folders = [name, f"{self.scheme}/{name}"]
        files = ("model.safetensors", "pytorch_model.bin")
        published = self._published_name(name)
        return [
            *named,
            *(f"{folder}/{file}" for folder in folders for file in files),
            *([published] if published else []),
        ]

    def _published_name(self, name: str) -> str | None:
        """The file name in the owner's URL, if the owner is installed and knows the model."""
        raise NotImplementedError

    def _fetch(self, name: str) -> Source:
        raise NotImplementedError

    def _source(
        self, name: str, state_dict: dict[str, Tensor], images: ImageFormat | None = None
    ) -> Source:
        source = translate(f"{self.scheme}://{name}", FileContent(state_dict))
        return source if images is None else source.with_images(images)

    def _not_fetched(self, name: str, reason: str) -> InputError:
        return InputError(
            f"{self.scheme}://{name}: {reason}; without a network put {name}.safetensors or "
            f"{name}.pth into a folder and name it in {MIRROR_VARIABLE}"
        )


class TimmHandler(_WeightsHandler):
    """``timm://resnetrs101.tf_in1k``: a pretrained model by timm's name."""

    scheme = "timm"

    def _published_name(self, name: str) -> str | None:
        try:
            import timm

            url = timm.get_pretrained_cfg(name).url
        except Exception:  # not installed, or no such model: the fetch will say so
            return None
        return os.path.basename(url) if url else None

    def _fetch(self, name: str) -> Source:
        try:
            import timm
        except ModuleNotFoundError:
            raise self._not_fetched(name, "timm is not installed (pip install timm)") from None
        if not _TIMM_MODELS.fullmatch(name.partition(".")[0]) or not timm.is_model(name):
            raise InputError(
                f"timm://{name}: expected one of timm's resnetrs50 to 420, resnet50, 101, 152 or "
                "200, lambda_resnet26t, 26rpt_256 or 50ts; nothing else of timm's is of the family"
            )
        try:
            model = timm.create_model(name, pretrained=True)
        except Exception as error:  # of timm, the hub, the network
            raise self._not_fetched(name, f"timm cannot fetch it ({_reason(error)})") from error
        cfg = model.pretrained_cfg
        images = ImageFormat.from_unit_range(cfg["mean"], cfg["std"])
        return self._source(name, model.state_dict(), images)


class TorchvisionHandler(_WeightsHandler):
    """``torchvision://resnet101`` or, with the name of the weights, ``resnet101.IMAGENET1K_V2``."""

    scheme = "torchvision"

    def _published_name(self, name: str) -> str | None:
        try:
            return os.path.basename(self._weights(name).url)
        except InputError:
            return None

    def _fetch(self, name: str) -> Source:
        weights = self._weights(name)
        try:
            state_dict = weights.get_state_dict(
                map_location="cpu", progress=False, check_hash=True, weights_only=True
            )
        except Exception as error:  # of the network, the file system, torch.hub
            reason = f"torchvision cannot fetch it ({_reason(error)})"
            raise self._not_fetched(name, reason) from error
        return self._source(name, state_dict, IMAGENET)

    def _weights(self, name: str):
        from torchvision.models import get_model_weights

        model, _, tag = name.partition(".")
        try:
            choices = get_model_weights(model).__members__
        except ValueError:
            raise InputError(
                f"torchvision://{name}: torchvision knows no model {model!r}"
            ) from None
        tag = tag or DEFAULT_TORCHVISION_TAG
        if tag not in choices:
            raise InputError(
                f"torchvision://{name}: {model} has no weights {tag!r}, only {', '.join(choices)}"
            )
        return choices[tag]


def register_addresses() -> None:
    """Let detectron2's PathManager read the addresses. Safe to call again."""
    for handler in (TimmHandler(), TorchvisionHandler()):
        PathManager.register_handler(handler, allow_override=True)


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
