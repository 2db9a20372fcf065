"""Releases of TensorRT for the tests marked `contract`, which download: `make contract` runs them."""

from __future__ import annotations

from functools import cache

import pytest

from .bindings import Bindings, NoWheelError, prepare
from .releases import RELEASES, Release


@cache
def prepared(release: Release) -> Bindings | NoWheelError:
    try:
        return prepare(release)
    except NoWheelError as error:
        return error


@pytest.fixture(scope="session", params=RELEASES, ids=lambda release: release.name)
def bindings(request: pytest.FixtureRequest) -> Bindings:
    """One release after the other; those without a wheel for this Python are skipped, with the reason."""
    found = prepared(request.param)
    if isinstance(found, NoWheelError):
        pytest.skip(f"{request.param.machines} is not checked: {found}")
    return found


@pytest.fixture(scope="session")
def all_bindings() -> list[Bindings]:
    """Every release that has a wheel for this Python."""
    return [found for release in RELEASES if isinstance(found := prepared(release), Bindings)]
