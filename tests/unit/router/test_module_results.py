# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a promoted file looks in a diff."""

from __future__ import annotations

from ansible_collections.anvil.serving.plugins.module_utils.router.module_results import format_for_diff


def test_a_profile_is_shown_by_tier_and_work_class() -> None:
    text = b'{"mode": "live", "entries": [{"tier_id": "b", "work_class": "chat", "decision": "deny", "sample_n": 1},'
    text += b'{"tier_id": "a", "work_class": "chat", "decision": "allow", "sample_n": 2}]}'
    assert format_for_diff("profile.json", text) == 'mode: "live"\na / chat: allow (sample_n=2)\nb / chat: deny (sample_n=1)\n'
    assert format_for_diff("profile.json", b"{") == "{"
