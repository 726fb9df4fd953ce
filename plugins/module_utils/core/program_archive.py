# SPDX-License-Identifier: GPL-3.0-or-later
"""A program and all rooms that it imports as one file (a zipapp), for Python without any library. Same code, same bytes."""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import zipfile
from typing import Dict, Iterator, Optional

PACKAGE = "ansible_collections.anvil.serving.plugins.module_utils"
# The time in the archive: the oldest that the format can write.
MOMENT = (1980, 1, 1, 0, 0, 0)
START = "import sys\nfrom {0} import main\n\nsys.exit(main())\n"


def read_module(name: str) -> Optional[str]:
    """The source of a module of this collection; None where there is none of this name."""
    try:
        module = importlib.import_module(name)
    except ImportError:
        return None
    try:
        return inspect.getsource(module)
    except OSError:  # a package without a line
        return ""


def imported_names(source: str) -> Iterator[str]:
    """What a source imports from this collection: modules, and names that may be modules."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            yield str(node.module)
            yield from ("{0}.{1}".format(node.module, one.name) for one in node.names)


def pack_program(name: str) -> bytes:
    """The archive. name: the module with ``main``, which returns the exit code."""
    sources: Dict[str, str] = {}
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one in sources or one == PACKAGE:
            continue
        source = read_module(one)
        if source is not None:
            sources[one] = source
            waiting += imported_names(source)
    written = {"__main__.py": START.format(name)}
    parents = {".".join(one.split(".")[:depth]) for one in sources for depth in range(1, one.count(".") + 1)}
    for one in parents:
        written[one.replace(".", "/") + "/__init__.py"] = ""
    for one, source in sources.items():
        if one not in parents:
            written[one.replace(".", "/") + ".py"] = source
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in sorted(written.items()):
            archive.writestr(zipfile.ZipInfo(path, MOMENT), text, zipfile.ZIP_DEFLATED)
    return b"#!/usr/bin/env python3\n" + packed.getvalue()
