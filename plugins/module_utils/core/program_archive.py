# SPDX-License-Identifier: GPL-3.0-or-later
"""A program and all rooms that it imports as one file (a zipapp), for Python without any library. Same code, same bytes."""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import zipfile
from typing import Dict, Iterator

PACKAGE = "ansible_collections.anvil.serving.plugins.module_utils"
# The time in the archive: the oldest that the format can write.
MOMENT = (1980, 1, 1, 0, 0, 0)
START = "import sys\nfrom {0} import main\n\nsys.exit(main())\n"


def read_module(name: str) -> str:
    """The source of a module of this collection."""
    try:
        return inspect.getsource(importlib.import_module(name))
    except OSError:  # a package without a line
        return ""


def imported_modules(source: str) -> Iterator[str]:
    """The modules of this collection that a source imports, inside functions too. What a module defines is no module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            module = importlib.import_module(str(node.module))
            yield module.__name__
            named = [getattr(module, one.name, None) for one in node.names]
            yield from (one.__name__ for one in named if inspect.ismodule(one) and one.__name__.startswith(PACKAGE))


def pack_program(name: str) -> bytes:
    """The archive. name: the module with ``main``, which returns the exit code."""
    sources: Dict[str, str] = {}
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one in sources or one == PACKAGE:
            continue
        sources[one] = read_module(one)
        waiting += imported_modules(sources[one])
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
