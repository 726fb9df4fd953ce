# SPDX-License-Identifier: GPL-3.0-or-later
"""The revisions of serves as files of their host: one for each revision, and an index with histories and pins.

They lie in the folder ``.revisions`` of the project, which only the user of the run can read. No container may mount it, because
no serve may mount a folder of projects. A revision is written before the index names it, so a kill leaves no broken name.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Dict, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.serves.serve_revisions import (
    Revision,
    ServeHistory,
    history_from_dict,
    revision_from_text,
)

FOLDER, INDEX = ".revisions", "index.json"


def _path(directory: str, name: str) -> str:
    return os.path.join(directory, FOLDER, name)


def compose_path(directory: str, serve: str) -> str:
    """The compose file of a serve that runs a revision, beside the one of the project."""
    return _path(directory, "live-{0}.yaml".format(serve))


def read_index(directory: str) -> Tuple[Dict[str, ServeHistory], str]:
    """Serve -> its history; and what is wrong with the index, if anything. A broken one counts as empty."""
    path = _path(directory, INDEX)
    try:
        raw = json.loads(files.read_file(path) or "{}")
        return {str(name): history_from_dict(one) for name, one in raw.items()}, ""
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        return {}, "{0} cannot be read ({1}): the revisions of serves are recorded anew".format(path, exc)


def write_index(directory: str, index: Mapping[str, ServeHistory]) -> None:
    """Write the index where it differs, then remove the revisions and compose files that it does not name any more."""
    plain = {name: {"ready": [asdict(one) for one in index[name].ready]} for name in sorted(index)}
    for name, entry in plain.items():
        pin = index[name].pin
        if pin is not None:
            entry["pin"] = asdict(pin)  # type: ignore[assignment]
    text = json.dumps(plain, indent=1, sort_keys=True) + "\n"
    path = _path(directory, INDEX)
    if files.read_file(path) != text:
        _make_folder(directory)
        files.write_file(path, text, 0o600)
    named = {INDEX}
    for serve, history in index.items():
        named.update(one.revision + ".json" for one in history.ready)
        if history.pin is not None:
            named.update((history.pin.revision + ".json", os.path.basename(compose_path(directory, serve))))
    for found in files.list_files(os.path.join(directory, FOLDER)):
        if os.path.basename(found) not in named:
            files.remove_file(found)


def _make_folder(directory: str) -> None:
    os.makedirs(os.path.join(directory, FOLDER), mode=0o700, exist_ok=True)


def write_revision(directory: str, revision: Revision) -> None:
    """Write a revision where it is not kept yet."""
    path = _path(directory, revision.name + ".json")
    if files.read_file(path) != revision.as_text():
        _make_folder(directory)
        files.write_file(path, revision.as_text(), 0o600)


def read_revision(directory: str, name: str) -> Tuple[Optional[Revision], str]:
    """A revision that is kept; or why it cannot be used."""
    path = _path(directory, name + ".json")
    try:
        text = files.read_file(path)
        if text is None:
            return None, "{0} is not there any more".format(path)
        revision = revision_from_text(text)
    except (AnvilError, ValueError, TypeError, KeyError) as exc:
        return None, "{0} cannot be read: {1}".format(path, exc)
    if revision.name != name:
        return None, "{0} was changed: its content is not what its name says".format(path)
    return revision, ""


def replace_history(directory: str, serve: str, history: ServeHistory) -> None:
    """Write the history of one serve into the index."""
    index, _trouble = read_index(directory)
    write_index(directory, {**index, serve: history})


def list_rows(history: ServeHistory, live: str) -> List[Dict[str, object]]:
    """The history of a serve as anvil_serve_info returns it. live: the revision that runs, if any."""
    rows = [{**asdict(one), "live": one.revision == live} for one in history.ready]
    return [{key: value for key, value in row.items() if key != "identity"} for row in rows]
