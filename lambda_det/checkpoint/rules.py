"""What a load may leave random, and the line that it gets when it leaves more."""

from __future__ import annotations

from dataclasses import dataclass

from detectron2.config import CfgNode

from lambda_det.checkpoint.coverage import Coverage
from lambda_det.checkpoint.fitting import may_stay_random
from lambda_det.errors import InputError

MIN_COVERAGE_KEY = "MODEL.LAMBDA_RESNET.MIN_COVERAGE"


@dataclass(frozen=True)
class LoadingRules:
    """What a load may leave random; the defaults are the config's."""

    partial: bool = False
    """Lambda layers, their norm and squeeze-and-excitation that the file lacks may stay random."""
    as_identity: bool = False
    """Keep the last norm of a block whose middle is random at zero."""
    min_coverage: float = 1.0
    """Share of the backbone's other parameters that the file must fill."""
    min_coverage_name: str = MIN_COVERAGE_KEY
    """What the user set it by."""

    @classmethod
    def from_config(cls, cfg: CfgNode) -> LoadingRules:
        """The rules that ``cfg.MODEL.LAMBDA_RESNET`` gives.

        Raises:
            InputError: MIN_COVERAGE is no share.
        """
        node = cfg.MODEL.LAMBDA_RESNET
        check_share(MIN_COVERAGE_KEY, node.MIN_COVERAGE)
        return cls(node.PARTIAL_INIT, node.PARTIAL_INIT_AS_IDENTITY, node.MIN_COVERAGE)

    def check(self, coverage: Coverage, name: str) -> None:
        """Raise InputError, its line beginning with ``name``, when more is random than may be."""
        if not coverage.loaded:
            first = next(iter(coverage.unexpected), "none")
            raise InputError(f"{name}: not one of its tensors fits the model (first: {first})")
        exempt = {tensor for tensor in coverage.missing if may_stay_random(tensor)}
        share = coverage.share(but=exempt if self.partial else ())
        if share < self.min_coverage:
            raise InputError(
                f"{name}: fills {_percent(share)} of the backbone, {self.min_coverage_name} asks "
                f"for {_percent(self.min_coverage)}: {self._what_lacks(coverage, exempt)}"
            )

    def _what_lacks(self, coverage: Coverage, exempt: set[str]) -> str:
        random = coverage.random_in_backbone()
        missing = [name for name in random if name in coverage.missing]
        if self.partial:
            missing = [name for name in missing if name not in exempt]
        parts = []
        if missing:
            parts.append(f"{len(missing)} tensors are not in it (first: {missing[0]})")
        if coverage.wrong_shape:
            name, file, model = coverage.wrong_shape[0]
            parts.append(
                f"{len(coverage.wrong_shape)} tensors have another shape (first: {name}, {file} "
                f"in the file, {model} in the model)"
            )
        hint = ""
        if not self.partial and set(random) <= exempt:
            hint = (
                "; MODEL.LAMBDA_RESNET.PARTIAL_INIT True lets lambda layers and "
                "squeeze-and-excitation start from random weights"
            )
        return " and ".join(parts) + hint


def check_share(name: str, value: float) -> None:
    """Raise InputError unless ``value`` is from 0 to 1."""
    if not 0 <= value <= 1:
        raise InputError(f"{name}={value}: expected a share from 0 to 1")


def _percent(share: float) -> str:
    """Rounded down, so that only all is 100 %."""
    return f"{int(share * 1000) / 10:g} %"
