"""Make this checkout importable as the collection ``anvil.serving``, whatever folder it lies in."""

from __future__ import annotations

import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
COLLECTIONS = REPO / ".cache" / "collections"


def pytest_configure() -> None:
    link = COLLECTIONS / "ansible_collections" / "anvil" / "serving"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(REPO, target_is_directory=True)
    if str(COLLECTIONS) not in sys.path:
        sys.path.insert(0, str(COLLECTIONS))


# conftest.py of a folder below is imported before any hook is called.
pytest_configure()
