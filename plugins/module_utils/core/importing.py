# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes imports from a module's zip file faster: each room is compiled once instead of twice. A module imports this room first.

Ansible runs a module from a zip file, and Python compiles each file in it twice: once to find the name of the file
(``zipimporter.get_filename``), once to run it. The finder of this room supplies the name (bench/serve_cold, bench/serve_noop).
"""

from __future__ import annotations

import importlib.util
import os
import pkgutil
import sys
from importlib.machinery import ModuleSpec
from typing import Any, Optional, Sequence
from zipimport import zipimporter

# module_utils, with the packages below it.
PACKAGE = __name__.rsplit(".", 2)[0]


class Finder:
    """Finds the rooms of this collection in the zip file of a module; Python's own finders find everything else."""

    @staticmethod
    def find_spec(name: str, path: Optional[Sequence[str]] = None, _target: Any = None) -> Optional[ModuleSpec]:
        """The interface of ``importlib.abc.MetaPathFinder``."""
        if not name.startswith(PACKAGE + ".") or not path:
            return None
        loader = pkgutil.get_importer(path[0])
        if not isinstance(loader, zipimporter) or not hasattr(loader, "exec_module"):
            return None  # Python before 3.10
        location = os.path.join(path[0], name.rpartition(".")[2])
        if not loader.is_package(name):
            return importlib.util.spec_from_file_location(name, location + ".py", loader=loader)
        file = os.path.join(location, "__init__.py")
        return importlib.util.spec_from_file_location(name, file, loader=loader, submodule_search_locations=[location])


if isinstance(__spec__.loader, zipimporter):  # true in a module; tests and the controller import from folders
    sys.meta_path.insert(0, Finder)
