"""Rules on which tensors may keep random values when weights are loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass

from detectron2.config import CfgNode

from lambda_det.checkpoint.coverage import Coverage
from lambda_det.errors import InputError, key

MIN_COVERAGE_KEY = "MODEL.LAMBDA_RESNET.MIN_COVERAGE"

_NOT_IN_RESNETS = re.compile(r"res[2-5]\.\d+\.(?:lambda_layer|lambda_norm|se|spatial_layer)\.")


@dataclass(frozen=True)
class LoadingRules:
    """Which tensors may keep random values; the defaults are those of the config keys.

    Attributes:
        partial: PARTIAL_INIT: lambda layers, their norm and squeeze-and-excitation may stay random
            if the file does not contain them.
        as_identity: PARTIAL_INIT_AS_IDENTITY: the last norm of a block whose middle layer stays
            random is set to zero.
        min_coverage: MIN_COVERAGE: share, 0 to 1, of the backbone's other parameters that the file
            must contain.
        min_coverage_name: the key or the option of a command that sets ``min_coverage``, for
            messages.
    """

    partial: bool = False
    as_identity: bool = False
    min_coverage: float = 1.0
    min_coverage_name: str = MIN_COVERAGE_KEY

    @classmethod
    def from_config(cls, cfg: CfgNode) -> LoadingRules:
        """Return the rules in ``cfg.MODEL.LAMBDA_RESNET``.

        Raises:
            InputError: MIN_COVERAGE is not from 0 to 1.
        """
        node = cfg.MODEL.LAMBDA_RESNET
        check_share(MIN_COVERAGE_KEY, node.MIN_COVERAGE)
        return cls(node.PARTIAL_INIT, node.PARTIAL_INIT_AS_IDENTITY, node.MIN_COVERAGE)

    def check(self, coverage: Coverage, name: str) -> None:
        """Raise InputError if more tensors keep random values than the rules allow.

        Args:
            coverage: the result of comparing the file with the model.
            name: beginning of the message, such as ``"MODEL.WEIGHTS='w.pth'"``.
        """
        if not coverage.loaded:
            first = next(iter(coverage.unexpected), "none")
            raise InputError(
                f"{name}: no tensor in the file fits the model (first in the file: {first})"
            )
        exempt = {name for name in coverage.missing if _NOT_IN_RESNETS.match(name)}
        share = coverage.share(but=exempt if self.partial else ())
        if share < self.min_coverage:
            raise InputError(
                f"{name}: the file contains {_percent(share)} of the backbone, but "
                f"{key(self.min_coverage_name)} requires {_percent(self.min_coverage)}: "
                f"{self._describe_missing(coverage, exempt)}"
            )

    def _describe_missing(self, coverage: Coverage, exempt: set[str]) -> str:
        random = coverage.random_in_backbone()
        missing = [name for name in random if name in coverage.missing]
        if self.partial:
            missing = [name for name in missing if name not in exempt]
        parts = []
        if missing:
            parts.append(f"{len(missing)} tensors are missing (first: {missing[0]})")
        if coverage.wrong_shape:
            name, file, model = coverage.wrong_shape[0]
            parts.append(
                f"{len(coverage.wrong_shape)} tensors have a different shape (first: {name}, "
                f"{file} in the file, {model} in the model)"
            )
        hint = ""
        if not self.partial and set(random) <= exempt:
            hint = (
                f"; set {key('MODEL.LAMBDA_RESNET.PARTIAL_INIT')} True to let lambda layers and "
                "squeeze-and-excitation start from random weights"
            )
        return " and ".join(parts) + hint


def check_share(name: str, value: float) -> None:
    """Raise InputError unless ``value`` is from 0 to 1."""
    if not 0 <= value <= 1:
        raise InputError(f"{key(name)}={value}: expected a share from 0 to 1")


def _percent(share: float) -> str:
    """Format a share in percent, rounded down so that only a share of 1 becomes 100 %."""
    return f"{int(share * 1000) / 10:g} %"
