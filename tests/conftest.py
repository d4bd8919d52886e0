"""What all tests share: a browser where there is one, and property tests that do not race."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import hypothesis
import pytest

# A busy machine is slow now and then; that is no defect in the code under test.
hypothesis.settings.register_profile("segnb", deadline=None)
hypothesis.settings.load_profile("segnb")

REPOSITORY = Path(__file__).resolve().parent.parent


def find_chromium() -> str | None:
    """A Chromium: the one SEGNB_CHROMIUM names, else the first on the path."""
    named = os.environ.get("SEGNB_CHROMIUM")
    if named:
        return named
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((found for name in names if (found := shutil.which(name))), None)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium for tests marked ``browser``."""
    found = find_chromium()
    assert found is not None, "tests that need Chromium carry the mark `browser`"
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip browser tests, with the reason, where there is no browser."""
    if find_chromium() is not None:
        return
    skip = pytest.mark.skip(reason="no Chromium here (install one, or set SEGNB_CHROMIUM)")
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(skip)
