# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Probes are repeated until their replies are as expected."""

from __future__ import annotations

from ansible_collections.anvil.serving.plugins.module_utils.core.http_request import Reply
from ansible_collections.anvil.serving.plugins.module_utils.router.probe_runner import run_probes
from ansible_collections.anvil.serving.plugins.module_utils.router.probes import Probe


def test_a_probe_is_repeated_until_its_reply_is_as_expected_and_a_doubtful_status_is_a_warning() -> None:
    replies = [Reply(0, "not yet"), Reply(200, "")]
    assert run_probes([Probe("p", "/")], lambda _probe: replies.pop(0), 1.0) == ([], [])
    problems, warnings = run_probes([Probe("p", "/", doubtful=(503,)), Probe("q", "/")], lambda _probe: Reply(503, "down"), 0.0)
    assert [problem.where for problem in problems] == ["q"] and len(warnings) == 1 and "p: status 503" in warnings[0]
