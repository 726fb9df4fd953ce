# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""anvil_prune_info with the code that the host keeps."""

from __future__ import annotations

from ansible_collections.anvil.serving.plugins.plugin_utils.host_code.module_action import ModuleAction


class ActionModule(ModuleAction):
    """Run the module anvil_prune_info."""
