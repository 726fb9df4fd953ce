"""Run a module in this process as Ansible does: arguments in, JSON result out."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
from typing import Any
from unittest import mock

from ansible.module_utils import _internal
from ansible.module_utils.common import warnings
from ansible.module_utils.testing import patch_module_args


def run_module(which: str, /, check: bool = False, diff: bool = False, **params: Any) -> dict[str, Any]:
    """Run the module ``anvil.serving.<which>`` and return its result; ``failed`` is always set."""
    module = importlib.import_module(f"ansible_collections.anvil.serving.plugins.modules.{which}")
    printed = io.StringIO()
    warnings._global_warnings.clear()  # those of the runs before in this process
    arguments = {**params, "_ansible_check_mode": check, "_ansible_diff": diff}
    # Where a part of the controller is imported, as the renderer does, a module prints its warnings and does not return them.
    on_host = mock.patch.object(_internal, "is_controller", False)
    with patch_module_args(arguments), on_host, contextlib.redirect_stdout(printed):
        try:
            module.main()
        except SystemExit as ended:
            answer: dict[str, Any] = json.loads(printed.getvalue())
            answer["failed"] = bool(ended.code)
            return answer
    raise AssertionError(f"{which} returned without a result")
