"""The kernels of back end "native", compiled once for all tests of a session."""

from __future__ import annotations

import pytest

from lambda_det.layers import native_build


@pytest.fixture(scope="session")
def native_kernels(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compile into a temporary cache; skip where there is no compiler."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        try:
            native_build.library()
        except native_build.BuildError as error:
            pytest.skip(f"the kernels of back end 'native': {error}")


@pytest.fixture(autouse=True)
def _kernels_where_a_parameter_is_native(request: pytest.FixtureRequest) -> None:
    parameters = getattr(request.node, "callspec", None)
    if parameters and "native" in map(str, parameters.params.values()):
        request.getfixturevalue("native_kernels")
