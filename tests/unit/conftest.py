"""What all unit tests share."""

from __future__ import annotations

import gc
import os

# Docker Compose is a short-lived Go program that would spend a third of its time on garbage collection.
os.environ.setdefault("GOGC", "off")


def pytest_collection_finish() -> None:
    """The thousands of tests stay until the end: the garbage collector need not look at them again and again."""
    gc.collect()
    gc.freeze()
