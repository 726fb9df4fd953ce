"""How many generated examples a test runs: some in every run, thousands in `make long`."""

from __future__ import annotations

import os


def examples(usual: int, long: int) -> int:
    """``long`` in `make long` (which sets ANVIL_LONG), otherwise ``usual``."""
    return long if os.environ.get("ANVIL_LONG") else usual
