# SPDX-License-Identifier: GPL-3.0-or-later
"""What watch says of a host's serves, for the status: read from its files, so that it costs no request."""

from __future__ import annotations

import os
from typing import Any, Dict

from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.watch.ledger import SILENT, read_ledger
from ansible_collections.anvil.serving.plugins.module_utils.watch.settings import parse_settings

# Acts of the last day are shown, the newest so many.
SHOWN_SECONDS, SHOWN_ACTS = 86400.0, 8
FOLDER, SETTINGS = "anvil-watch", "settings.json"


def read_told_states(root: str, now: float) -> Dict[str, Any]:
    """Empty for a host without watch. root: the folder of the collection. silent: seconds since watch last wrote, where too many.

    serves: name -> ``state``, ``why``, ``since``, ``restarts`` of the last hour, ``given_up``. acts: the last ones.
    """
    path = os.path.join(root, FOLDER, SETTINGS)
    try:
        text = files.read_file(path)
        if text is None:
            return {}
        found = read_ledger(parse_settings(text, path).data) or {}
    except AnvilError as exc:
        return {"trouble": exc.as_text(), "silent": None, "serves": {}, "acts": []}
    try:
        serves = {
            str(name): {
                "state": str(row["state"]),
                "why": str(row["why"]),
                "since": float(row["since"]),
                "restarts": len(row["restarts"]),
                "given_up": bool(row["given_up"]),
            }
            for name, row in found.get("serves", {}).items()
        }
        recent = [one for one in found.get("acts", []) if now - float(one["time"]) < SHOWN_SECONDS][-SHOWN_ACTS:]
        acts = [{"time": float(one["time"]), "serve": str(one["serve"]), "line": str(one["line"])} for one in recent]
        age = now - float(found.get("written", 0.0))
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        return {"trouble": "its ledger cannot be read: {0}".format(exc), "silent": None, "serves": {}, "acts": []}
    return {"trouble": "", "silent": age if age > SILENT else None, "serves": serves, "acts": acts}
