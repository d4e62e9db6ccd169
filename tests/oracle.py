"""What oracles and the browser share: they skip where their tools are missing, unless somebody insists on them."""

import os

import pytest


def require(missing: str | None) -> None:
    """Skip the calling test when something is missing; with TWOFOLD_REQUIRE_ORACLES=1, fail it."""
    if missing is None:
        return
    if os.environ.get("TWOFOLD_REQUIRE_ORACLES") == "1":
        pytest.fail(missing)
    pytest.skip(missing)
