# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which replies are completions."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.http_request import Reply
from ansible_collections.anvil.serving.plugins.module_utils.router.tier_completions import parse_completion


@pytest.mark.parametrize(
    ("status", "body", "ok"),
    [
        (200, '{"choices": [{"message": {"content": "hello"}}]}', True),
        (200, '{"choices": [{"message": {"content": " "}}]}', False),
        (200, '{"choices": [{"message": {"content": null}}]}', False),
        (200, '{"choices": [{"message": {"content": null, "reasoning_content": "hm"}}]}', True),
        (200, '{"choices": [{"message": {"content": ""}}], "usage": {"completion_tokens": 32}}', True),
        (200, '{"choices": []}', False),
        (200, "[]", False),
        (200, "", False),
        (503, '{"choices": [{"message": {"content": "hello"}}]}', False),
        (0, "refused", False),
    ],
)
def test_only_a_completion_with_text_counts_as_success(status: int, body: str, ok: bool) -> None:
    assert parse_completion(Reply(status, body), 0.1).ok == ok
