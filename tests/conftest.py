"""Make this checkout importable as the collection ``anvil.serving``, from any folder."""

from __future__ import annotations

import sys
from pathlib import Path

import hypothesis
import pytest

REPO = Path(__file__).resolve().parent.parent
COLLECTIONS = REPO / ".cache" / "collections"


def pytest_configure() -> None:
    # No deadlines: a loaded machine must not fail a test; bench/ measures speed.
    hypothesis.settings.register_profile("anvil", deadline=None)
    hypothesis.settings.load_profile("anvil")
    link = COLLECTIONS / "ansible_collections" / "anvil" / "serving"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(REPO, target_is_directory=True)
    if str(COLLECTIONS) not in sys.path:
        sys.path.insert(0, str(COLLECTIONS))


# An assertion in a module that tests share then tells its values too.
pytest.register_assert_rewrite(*(path.stem for path in (REPO / "tests" / "support").glob("*.py")))
# pytest imports the conftest.py of a subfolder, which needs the collection, before it calls hooks.
pytest_configure()
