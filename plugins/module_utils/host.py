# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Docker host can run: engine, Compose, driver and cards in one description."""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import Any, Dict

from ansible_collections.anvil.serving.plugins.module_utils.compose import read_version
from ansible_collections.anvil.serving.plugins.module_utils.engine import Engine
from ansible_collections.anvil.serving.plugins.module_utils.gpu import read_cards


def describe_host(engine: Engine) -> Dict[str, Any]:
    """The facts that anvil_host_info returns. Raises AnvilError where the engine or the driver does not answer."""
    version, info = engine.version(), engine.info()
    cards = read_cards()
    return {
        "changed": False,
        "engine": {
            "version": version.get("Version"),
            "api_version": version.get("ApiVersion"),
            "data_root": info.get("DockerRootDir"),
            "storage_driver": info.get("Driver"),
            "runtimes": sorted(info.get("Runtimes") or {}),
        },
        "compose": read_version(engine.docker_host),
        "platform": "wsl2" if "microsoft" in platform.release().lower() else "linux",
        "nvidia": {"present": cards is not None, "driver": cards[0].driver if cards else None},
        "gpus": [{**asdict(card), "vram_free_mib": card.vram_free_mib} for card in cards or []],
    }
