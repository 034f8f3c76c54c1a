"""The addresses ``timm://`` and ``torchvision://`` for MODEL.WEIGHTS, and a mirror of weights.

timm or torchvision downloads the weights into its own cache. They are then converted to
detectron2's names, and detectron2's PathManager returns the path of the converted file. Hence every
trainer that reads MODEL.WEIGHTS through PathManager can use these addresses. A folder that mirrors
weights is searched for the files of ``detectron2://``, too.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import replace

import torch
from detectron2.utils.file_io import Detectron2Handler, PathHandler, PathManager
from iopath.common.file_io import file_lock, get_cache_dir

from lambda_det.checkpoint.conversion import convert
from lambda_det.checkpoint.coverage import coverage_report
from lambda_det.checkpoint.image_format import IMAGENET, ImageFormat
from lambda_det.checkpoint.own_files import write_weights
from lambda_det.checkpoint.reading import read_file
from lambda_det.checkpoint.rules import LoadingRules
from lambda_det.checkpoint.translation import read_and_translate, translate
from lambda_det.errors import InputError, first_line_of

logger = logging.getLogger(__name__)

MIRROR_VARIABLE = "LAMBDA_DET_WEIGHTS_MIRROR"
"""Environment variable that names a folder of weights. It is searched before any download."""

DEFAULT_TORCHVISION_TAG = "IMAGENET1K_V1"
"""Weights of ``torchvision://resnet101``. The published detection baselines started from V1."""

_SUFFIXES = (".safetensors", ".pth", ".bin", ".pkl")
# Models are allowed by name, because some others (resnetblur50, ...) have tensors of the same names
# and shapes but compute another function, so they would load without an error.
_TIMM_MODELS = re.compile(
    r"resnetrs\d+|resnet(?:50|101|152|200)|lambda_resnet(?:26t|50ts|26rpt_256)"
)
_WITH_DIGEST = re.compile(r"model_\w+_[0-9a-f]{6}\.pkl")
_CACHE_FORMAT = 2  # increase it when a conversion changes, so that old cached files are not used


class _WeightsHandler(PathHandler):
    """A handler of iopath's PathManager for the addresses of one scheme."""

    scheme = ""

    def _get_supported_prefixes(self) -> list[str]:
        return [f"{self.scheme}://"]

    def _get_local_path(self, path: str, force: bool = False, **kwargs) -> str:
        """Return the path of the converted file; download and convert it at the first call.

        Raises:
            InputError: the weights cannot be obtained. The message says how to provide them
                without a network.
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
                self._write(path, name, mirrored, target)
        return target

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs):
        return open(self._get_local_path(path), mode, buffering=buffering)

    def _isfile(self, path: str, **kwargs) -> bool:
        try:
            return os.path.isfile(self._get_local_path(path))
        except InputError:
            return False

    _exists = _isfile

    def _write(self, path: str, name: str, mirrored: str | None, target: str) -> None:
        if mirrored:
            weights = read_and_translate(mirrored)
        else:
            content, images = self._fetch(name)
            weights = replace(translate(path, content), images=images)
        logger.info("%s: converting %s", path, mirrored or "the downloaded weights")
        conversion = convert(weights)
        logger.info("%s (%s)\n%s", path, weights.title, coverage_report(conversion.coverage))
        # Full coverage is required here even if the config allows less, because later runs with
        # other configs use the same cached file.
        LoadingRules(min_coverage_name=f"{self.scheme}://").check(conversion.coverage, path)
        write_weights(
            target,
            conversion.tensors,
            architecture=conversion.architecture,
            images=conversion.images,
            origin=path,
        )

    def _mirrored(self, name: str) -> str | None:
        """Return the file of the mirror, under the library's name or its own in the URL."""
        if not os.environ.get(MIRROR_VARIABLE):
            return None
        names = [name + suffix for suffix in _SUFFIXES]
        for inside in (name, f"{self.scheme}/{name}"):
            names += [f"{inside}/model.safetensors", f"{inside}/pytorch_model.bin"]
        try:
            names.append(os.path.basename(self._url(name)))
        except Exception:  # the library is not installed or has no such model: _fetch reports it
            logger.debug("%s://%s has no known URL", self.scheme, name)
        return _in_mirror(names)

    def _url(self, name: str) -> str:
        """Return the URL from which the library downloads the weights."""
        raise NotImplementedError

    def _fetch(self, name: str) -> tuple[object, ImageFormat]:
        """Let the library download the weights. Return the content of the file."""
        raise NotImplementedError

    def _download_error(self, name: str, reason: str) -> InputError:
        return InputError(
            f"{self.scheme}://{name}: {reason}; without a network, put {name}.safetensors or "
            f"{name}.pth into a folder and set the environment variable {MIRROR_VARIABLE} to it"
        )


class TimmHandler(_WeightsHandler):
    """Handler of ``timm://NAME``, where NAME is timm's, such as ``resnetrs101.tf_in1k``."""

    scheme = "timm"

    def _url(self, name: str) -> str:
        import timm

        return timm.get_pretrained_cfg(name).url

    def _fetch(self, name: str) -> tuple[object, ImageFormat]:
        try:
            import timm
        except ModuleNotFoundError:
            raise self._download_error(name, "timm is not installed (pip install timm)") from None
        if not _TIMM_MODELS.fullmatch(name.partition(".")[0]) or not timm.is_model(name):
            raise InputError(
                f"timm://{name}: lambda_det cannot build this network; expected one of timm's "
                "resnetrs50 to resnetrs420, resnet50, resnet101, resnet152, resnet200, "
                "lambda_resnet26t, lambda_resnet26rpt_256, lambda_resnet50ts"
            )
        try:
            model = timm.create_model(name, pretrained=True)
        except Exception as error:  # timm, huggingface_hub and the network raise many types
            reason = f"timm cannot download it ({first_line_of(error)})"
            raise self._download_error(name, reason) from error
        cfg = model.pretrained_cfg
        return model.state_dict(), ImageFormat.from_unit_range(cfg["mean"], cfg["std"])


class TorchvisionHandler(_WeightsHandler):
    """Handler of ``torchvision://MODEL`` and ``torchvision://MODEL.WEIGHTS``.

    WEIGHTS is a member of torchvision's enumeration, such as ``resnet101.IMAGENET1K_V2``; the
    default is :data:`DEFAULT_TORCHVISION_TAG`.
    """

    scheme = "torchvision"

    def _url(self, name: str) -> str:
        return self._weights(name).url

    def _fetch(self, name: str) -> tuple[object, ImageFormat]:
        url = self._url(name)
        # As torch.hub.load_state_dict_from_url, but the file is read by this project's reader.
        file = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(url))
        try:
            if not os.path.exists(file):
                os.makedirs(os.path.dirname(file), exist_ok=True)
                digest = file.rpartition("-")[2].partition(".")[0]
                torch.hub.download_url_to_file(url, file, hash_prefix=digest, progress=False)
        except Exception as error:  # torch.hub, the network and the file system raise many types
            reason = f"torchvision's file {url} cannot be downloaded ({first_line_of(error)})"
            raise self._download_error(name, reason) from error
        return read_file(file), IMAGENET

    def _weights(self, name: str):
        from torchvision.models import get_model_weights

        model, _, tag = name.partition(".")
        try:
            choices = get_model_weights(model).__members__
        except ValueError:
            raise InputError(f"torchvision://{name}: torchvision has no model {model!r}") from None
        tag = tag or DEFAULT_TORCHVISION_TAG
        if tag not in choices:
            raise InputError(
                f"torchvision://{name}: {model} has no weights {tag!r}; expected one of "
                f"{', '.join(choices)}"
            )
        return choices[tag]


class MirroredDetectron2Handler(Detectron2Handler):
    """detectron2's handler of ``detectron2://``, which looks into the mirror first."""

    def _get_local_path(self, path: str, **kwargs) -> str:
        name = path.removeprefix(self.PREFIX)
        mirrored = _in_mirror([name, "/".join(name.split("/")[-2:]), name_in_mirror(path)])
        return mirrored or super()._get_local_path(path, **kwargs)

    def _open(self, path: str, mode: str = "r", **kwargs):
        return PathManager.open(self._get_local_path(path), mode, **kwargs)


def name_in_mirror(address: str) -> str:
    """Return the shortest name under which the mirror is searched for a file of ``detectron2://``:
    that of a detector's file, which has a digest, or else the last two parts of the address, which
    tell whose R-50.pkl it is."""
    parts = address.partition("://")[2].split("/")
    return "/".join(parts[-1:] if _WITH_DIGEST.fullmatch(parts[-1]) else parts[-2:])


def _in_mirror(names: Iterable[str]) -> str | None:
    """Return the first of these files that is in the mirror; None without a mirror."""
    folder = os.environ.get(MIRROR_VARIABLE)
    if not folder:
        return None
    if not os.path.isdir(folder):
        raise InputError(f"{MIRROR_VARIABLE}={folder!r}: this folder does not exist")
    paths = (os.path.join(folder, name) for name in names)
    return next((path for path in paths if os.path.isfile(path)), None)


def register_addresses() -> None:
    """Register ``timm://`` and ``torchvision://`` with detectron2's PathManager, and the mirror for
    ``detectron2://``.

    Repeated calls are allowed.
    """
    for handler in (TimmHandler(), TorchvisionHandler(), MirroredDetectron2Handler()):
        PathManager.register_handler(handler, allow_override=True)
