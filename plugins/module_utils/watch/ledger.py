# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger of watch: the state of each serve, the restarts it had, and the last acts; one file that outlives the process.

``status.yml`` reads it. What a later process must know (a restart that is about to happen) is on the disk before it happens.
"""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError

LEDGER = os.path.join("watch", "state.json")
MOST_ACTS = 100
# Seconds: the file is at most so old while watch runs; after SILENT it counts as silent.
REFRESH, SILENT = 15.0, 60.0


@dataclass(frozen=True)
class Entry:
    """A serve in the ledger. Times are seconds since 1970.

    since: of the state. proven: the incarnation that once gave a token. restarts: by watch, in the last hour; total: ever;
    in_vain: in a row without a token after them. given_up: the incarnation that is not restarted again. healing: the incarnation
    that is being restarted, and since when. ready_seconds: from its start to its first token. incident: the last one's folder.
    """

    state: str = ""
    why: str = ""
    since: float = 0.0
    incarnation: str = ""
    proven: str = ""
    restarts: Tuple[float, ...] = ()
    total: int = 0
    in_vain: int = 0
    given_up: str = ""
    healing: str = ""
    healing_since: float = 0.0
    ready_seconds: Optional[float] = None
    incidents: int = 0
    incident: str = ""


@dataclass
class Ledger:
    """The ledger in memory and on the disk. tell: prints a line to the journal."""

    folder: str
    tell: Callable[[str], None]
    wall: Callable[[], float] = time.time
    entries: Dict[str, Entry] = field(default_factory=dict)
    acts: List[Dict[str, Any]] = field(default_factory=list)
    _written: float = 0.0
    _lock: Any = field(default_factory=threading.RLock)
    _trouble: str = ""

    def load(self) -> None:
        """Take over what an earlier process left. A file that cannot be read is an empty one."""
        found = read_ledger(self.folder) or {}
        known = {one.name for one in fields(Entry)}
        for name, row in (found.get("serves") or {}).items():
            try:
                kept = {key: value for key, value in row.items() if key in known}
                self.entries[str(name)] = Entry(**{**kept, "restarts": tuple(float(one) for one in kept.get("restarts") or ())})
            except (TypeError, ValueError, AttributeError):
                continue
        acts = found.get("acts")
        self.acts = [one for one in acts if isinstance(one, dict)][-MOST_ACTS:] if isinstance(acts, list) else []

    def get(self, name: str) -> Entry:
        with self._lock:
            return self.entries.get(name, Entry())

    def put(self, name: str, entry: Entry) -> None:
        """Keep an entry, on the disk too if it differs."""
        with self._lock:
            if self.entries.get(name) != entry:
                self.entries[name] = entry
                self.write()

    def act(self, serve: str, line: str) -> None:
        """One line for the journal and the ledger."""
        with self._lock:
            self.acts = [*self.acts, {"time": round(self.wall(), 3), "serve": serve, "line": line}][-MOST_ACTS:]
            self.tell("{0}: {1}".format(serve, line))
            self.write()

    def keep_only(self, names: List[str]) -> None:
        with self._lock:
            self.entries = {name: entry for name, entry in self.entries.items() if name in names}

    def refresh(self) -> None:
        """Write the file again if it is old, so that a reader sees that watch runs."""
        if abs(self.wall() - self._written) > REFRESH:
            self.write()

    def write(self) -> bool:
        """Whether the file is on the disk. A full disk is told once and stops nothing."""
        with self._lock:
            rows = {name: asdict(entry) for name, entry in sorted(self.entries.items())}
            text = json.dumps({"written": self.wall(), "serves": rows, "acts": self.acts}, indent=1) + "\n"
            try:
                files.write_file(os.path.join(self.folder, LEDGER), text, 0o644)
            except AnvilError as exc:
                if exc.as_text() != self._trouble:
                    self._trouble = exc.as_text()
                    self.tell(self._trouble)
                return False
            self._written, self._trouble = self.wall(), ""
            return True


def read_ledger(folder: str) -> Optional[Dict[str, Any]]:
    """The file of a ledger; None where there is none that can be read."""
    try:
        read = json.loads(files.read_file(os.path.join(folder, LEDGER)) or "null")
    except (AnvilError, ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) and isinstance(read.get("serves", {}), Mapping) else None
