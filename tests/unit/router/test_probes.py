# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judgement of replies to probes, and validation of given probes."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.core.http_request import Reply
from ansible_collections.anvil.serving.plugins.module_utils.router.probes import (
    Probe,
    judge_reply,
    parse_probes,
)


@pytest.mark.parametrize(
    ("probe", "reply", "wrong"),
    [
        (Probe("p", "/"), Reply(200, ""), ""),
        (Probe("p", "/"), Reply(0, "refused"), "no answer: refused"),
        (Probe("p", "/"), Reply(503, "busy"), "status 503, not 200: busy"),
        (Probe("p", "/", status=(200, 401)), Reply(401, ""), ""),
        (Probe("p", "/", json={"a.b": 1}), Reply(200, '{"a": {"b": 1}}'), ""),
        (Probe("p", "/", json={"a.0.b": None}), Reply(200, '{"a": [{"b": null}]}'), ""),
        (Probe("p", "/", json={"a.b": 1}), Reply(200, '{"a": {"b": 2}}'), "a.b is 2, not 1"),
        (Probe("p", "/", json={"a.b": 1}), Reply(200, '{"a": []}'), "has no a.b"),
        (Probe("p", "/", json={"a": 1}), Reply(200, "<html>"), "not JSON"),
        (Probe("p", "/", one_of={"a": ["x", "y"]}), Reply(200, '{"a": "y"}'), ""),
        (Probe("p", "/", one_of={"a": ["x", "y"]}), Reply(200, '{"a": "z"}'), "a is 'z', not 'x' or 'y'"),
    ],
)
def test_a_reply_is_compared_with_what_the_probe_expects(probe: Probe, reply: Reply, wrong: str) -> None:
    found = judge_reply(probe, reply)
    assert (wrong in found) if wrong else found == ""


def test_every_invalid_probe_is_reported_and_secrets_are_hidden() -> None:
    given: list[dict[str, Any]] = [{"path": "x"}, {"path": "/", "method": "STEAL"}, {"path": "/", "headers": {"a": "b\nc"}}]
    with pytest.raises(AnvilError) as caught:
        parse_probes(given, lambda path: path)
    assert len(caught.value.problems) == 3
    (probe,) = parse_probes([{"path": "/", "header_files": {"X-Key": "/run/key"}}], lambda _path: "s3cret\n")
    assert probe.request_headers("")["X-Key"] == "s3cret"
    assert "s3cret" not in repr(probe) and "s3cret" not in str(probe.as_meta())
