"""Fixtures of the tests of layers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from autotune_helpers import Clock

from lambda_det.layers import measurement, native_build, native_lambda
from lambda_det.layers.autotune import CANDIDATES, VARIABLE
from lambda_det.layers.choices import CHOICES


@pytest.fixture
def new_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Measuring is allowed, and nothing is known yet; the candidates need no compiler."""
    monkeypatch.setenv(VARIABLE, "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(measurement, "_warned_of", set())
    monkeypatch.setitem(CANDIDATES, "cpu", ("conv", "banded"))
    monkeypatch.setattr(native_lambda, "unsupported", lambda *_: "it is not for this test")
    CHOICES.clear()
    yield
    CHOICES.clear()


@pytest.fixture
def clock(new_user: None, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Back ends seem to take the times that it says; "banded" is the faster one."""
    clock = Clock(conv=2.0, banded=1.0)
    monkeypatch.setattr(measurement, "seconds_of", clock)
    return clock


@pytest.fixture(scope="session")
def native_kernels() -> None:
    """Skip where there is no compiler."""
    try:
        native_build.library()
    except native_build.BuildError as error:
        pytest.skip(f"the kernels of back end 'native': {error}")


@pytest.fixture(autouse=True)
def _kernels_where_a_parameter_is_native(request: pytest.FixtureRequest) -> None:
    parameters = getattr(request.node, "callspec", None)
    if parameters and "native" in map(str, parameters.params.values()):
        request.getfixturevalue("native_kernels")
