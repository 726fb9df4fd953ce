# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Credentials in URLs are in nothing that is told: the controller's and the hosts' texts, and those of a workflow's server."""

from __future__ import annotations

import time

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.printable import hide_credentials, make_showable
from ansible_collections.anvil.serving.plugins.module_utils.weights.source import Source, clean_record
from anvil_workflow.environment.variables import hide_credentials as hide_in_workflow

LOGINS = [
    ("http://user:s3cret@host/v1", "http://<hidden>@host/v1"),
    ("https://s3cret@host", "https://<hidden>@host"),
    ("https://:s3cret@host:8443/x?y=1", "https://<hidden>@host:8443/x?y=1"),
    ("postgresql://jobs:s3cr@et@db:5432/jobs", "postgresql://<hidden>@db:5432/jobs"),
    ("socks5h://u:s3cret@[::1]:1080", "socks5h://<hidden>@[::1]:1080"),
    ("git+https://u:s3cret@git/x.git@main", "git+https://<hidden>@git/x.git@main"),
    ("a 'redis://u:s3cret@h', b \"amqp://u:s3cret@h/v\"", "a 'redis://<hidden>@h', b \"amqp://<hidden>@h/v\""),
    ("OPENAI_BASE_URL=http://u:s3cret@h/v1\nX=http://u:s3cret@h", "OPENAI_BASE_URL=http://<hidden>@h/v1\nX=http://<hidden>@h"),
]
PLAIN = [
    "http://host/v1", "https://host/a@b", "http://host?mail=a@b.example", "git@github.com:owner/name", "alpine@sha256:00ff",
    "user@host", "https://registry/name@sha256:00ff", "see http://host and write to ops@example.org",
]  # fmt: skip


@pytest.mark.parametrize(("text", "shown"), LOGINS)
def test_a_login_in_a_url_is_hidden(text: str, shown: str) -> None:
    assert hide_credentials(text) == make_showable(text) == hide_in_workflow(text) == shown


@pytest.mark.parametrize("text", PLAIN)
def test_other_texts_stay(text: str) -> None:
    assert hide_credentials(text) == hide_in_workflow(text) == text


@pytest.mark.parametrize(
    "query", ["X-Amz-Signature=s3cret", "sig=s3cret", "a=1&token=s3cret", "access_token=s3cret", "api_key=s3cret&b=2"]
)
def test_a_signature_or_token_in_a_query_is_hidden(query: str) -> None:
    shown = hide_credentials(f"https://host/file?{query}#part")
    assert "s3cret" not in shown and shown.endswith("#part") and "<hidden>" in shown


def test_long_texts_take_no_long_time() -> None:
    began = time.monotonic()
    for text in ("http://" + "a" * 200_000, "http://" * 30_000 + "@", "a://@" * 30_000, "http://" + "@" * 100_000 + " "):
        assert len(hide_credentials(text)) > 0
    assert time.monotonic() - began < 5


def test_records_of_models_hold_no_credentials_and_old_ones_still_match() -> None:
    source = Source("url", url="https://u:s3cret@host/model.gguf", sha256="0" * 64)
    assert source.as_dict()["url"] == "https://<hidden>@host/model.gguf" and source.url.startswith("https://u:s3cret@")
    old = {"kind": "url", "url": "https://u:s3cret@host/model.gguf", "sha256": "0" * 64}
    assert (
        clean_record(old) == source.as_dict() == Source("url", url="https://u:other@host/model.gguf", sha256="0" * 64).as_dict()
    )
