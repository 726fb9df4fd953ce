# SPDX-License-Identifier: GPL-3.0-or-later
"""The source text of a program that runs elsewhere, such as in a side container.

Such a program is a file of its own in a package ``programs``. Import it inside the function that sends it: Ansible then packs it
into the module's zip file, and a run that does not send it does not load it.
"""

from __future__ import annotations

import inspect
from types import ModuleType


def read_source(program: ModuleType) -> str:
    """The text of a program's file, from a folder or from the zip file of a module. Raises OSError where it has none."""
    return inspect.getsource(program)
