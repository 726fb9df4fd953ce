# SPDX-License-Identifier: GPL-3.0-or-later
"""Check ``anvil_logs``: how much of the disk the log of each container may use up."""

from __future__ import annotations

from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import Limits
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_engines import read_size
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import InventoryCheck

LOG_DRIVERS = ("local", "engine")
LOG_KEYS = ("driver", "max_size", "max_files")


def read_limits(check: InventoryCheck, value: Any) -> Limits:
    """The limits of every container of the host."""
    section = check.read_mapping(("anvil_logs",), value, "anvil_logs: {max_size: 20m, max_files: 5}")
    default = Limits()
    if section is None:
        return default
    section.check_keys(LOG_KEYS)
    driver = section.read_choice("driver", LOG_DRIVERS)
    size, files = read_size(section, "max_size"), section.read_integer("max_files", 1, 1000)
    if driver == "engine":
        for key in ("max_size", "max_files"):
            if section.has(key):
                hint = "remove {0}, or driver: engine".format(key)
                section.add_problem(
                    key, "has no effect with driver: engine", hint, "the engine's daemon.json sets its own log-opts"
                )
        return Limits(log_driver="", log_max_size="", log_max_files=0)
    return Limits(default.log_driver, size or default.log_max_size, files or default.log_max_files)
