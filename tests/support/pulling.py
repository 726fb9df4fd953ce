"""Run anvil_model against the bed's hub, in this process or in a separate one that a test can kill."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import COLLECTIONS, REPO
from harness import run_module
from hub import Hub


class Puller:
    """Runs anvil_model with the options that all tests share."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        self.hub, self.folder = hub, folder
        self.target = folder / "org" / "name"
        self.record = folder.parent / ".anvil-serving" / folder.name / "org+name"

    def options(self, **params: Any) -> dict[str, Any]:
        shared = {"repo": "org/name", "folder": str(self.folder), "endpoint": self.hub.endpoint, "reserve_mib": 0}
        return {key: value for key, value in {**shared, **params}.items() if value is not None}

    def run(self, check: bool = False, **params: Any) -> dict[str, Any]:
        return run_module("anvil_model", check=check, **self.options(**params))

    def start(self, **params: Any) -> subprocess.Popen[str]:
        """Start the module in a separate process, which a test can kill."""
        program = (
            "import sys, json; sys.path[:0] = json.loads(sys.argv[1]); from harness import run_module; "
            "print(json.dumps(run_module('anvil_model', **json.loads(sys.argv[2]))))"
        )
        paths = [str(REPO / "tests" / "support"), str(COLLECTIONS)]
        argv = [sys.executable, "-c", program, json.dumps(paths), json.dumps(self.options(**params))]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    def half_fetched(self) -> int:
        return sum(path.stat().st_size for path in self.record.glob("parts/*"))
