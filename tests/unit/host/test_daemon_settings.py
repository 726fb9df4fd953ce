"""The settings in a daemon.json: what merging keeps, what is refused, what is hidden, and what needs a restart."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.host.daemon_settings import (
    is_reloadable,
    list_secrets,
    mask_settings,
    merge_settings,
    read_settings,
)
from hypothesis import given
from hypothesis import strategies as st

PATH = "/etc/docker/daemon.json"
SETTINGS = st.recursive(
    st.dictionaries(
        st.text(max_size=3), st.one_of(st.integers(), st.booleans(), st.lists(st.integers(), max_size=3)), max_size=4
    ),
    lambda inner: st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def test_what_is_there_stays() -> None:
    old = {"dns": ["10.0.0.1"], "runtimes": {"runsc": {"path": "runsc"}}, "log-level": "info", "insecure-registries": ["a:5000"]}
    new = {"runtimes": {"nvidia": {"path": "n"}}, "log-level": "warn", "insecure-registries": ["b:5000", "a:5000"]}
    assert merge_settings(old, new) == {
        "dns": ["10.0.0.1"],
        "runtimes": {"runsc": {"path": "runsc"}, "nvidia": {"path": "n"}},
        "log-level": "warn",
        "insecure-registries": ["a:5000", "b:5000"],
    }


@pytest.mark.slow
@given(SETTINGS, SETTINGS)
def test_merging_twice_changes_nothing_more(old: dict[str, Any], new: dict[str, Any]) -> None:
    once = merge_settings(old, new)
    assert merge_settings(once, new) == once and set(once) == set(old) | set(new)


@pytest.mark.parametrize("data", [None, b"", b"  \n", b"\xef\xbb\xbf", b"{}", b"\xef\xbb\xbf {}\r\n"])
def test_no_file_and_an_empty_one_hold_no_settings(data: bytes | None) -> None:
    assert read_settings(PATH, data) == {}


def test_a_mark_of_utf8_does_not_count() -> None:
    assert read_settings(PATH, b'\xef\xbb\xbf{"labels": ["caf\xc3\xa9"]}') == {"labels": ["caf\u00e9"]}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{", "is not valid JSON"),
        (b'{"a": 1,}', "is not valid JSON"),
        (b"[]", "is not a JSON object"),
        (b'"text"', "is not a JSON object"),
        (b"null", "is not a JSON object"),
        (b"# nothing", "dockerd refuses them too"),
        (b'{\n  // the proxy\n  "debug": true\n}', "dockerd refuses them too"),
        (b'{\n  /* the proxy */\n  "debug": true\n}', "dockerd refuses them too"),
        (b'{"debug": true, "debug": false}', 'the key "debug" is there twice'),
        (b'{"runtimes": {"nvidia": {}, "nvidia": {"path": "n"}}}', 'the key "nvidia" is there twice'),
        (b'{"shutdown-timeout": NaN}', "NaN is not a value of JSON"),
        (b'{"shutdown-timeout": -Infinity}', "-Infinity is not a value of JSON"),
        ('{"debug": true}'.encode("utf-16"), "is UTF-16"),
        ('{"debug": true}'.encode("utf-16-be"), "is UTF-16"),
        ('{"debug": true}'.encode("utf-16-le"), "is UTF-16"),
        (b'{"debug": true, "lab' + bytes(300), "was not written whole"),  # the power failed
        (bytes(20), "was not written whole"),
        (b'{"shutdown-timeout": 1e999}', "1e999 is too large a number"),
        (b'{"labels": ["\\ud800"]}', "is not valid JSON"),
        (b'{"labels": ["\xff"]}', "it is not UTF-8"),
        (b'{"a":' * 30 + b"1" + b"}" * 30, "it is nested too deeply"),
        (b"[" * 900 + b"]" * 900, "it is nested too deeply"),
        (b'{"a":' * 100_000, "is not valid JSON"),
        (b"services:\n  web: {}\n", "is not valid JSON"),
    ],
)
def test_a_file_that_would_lose_something_is_an_error_with_a_sentence(data: bytes, words: str) -> None:
    with pytest.raises(AnvilError) as caught:
        read_settings(PATH, data)
    (problem,) = caught.value.problems
    assert words in str(caught.value) and "nothing was merged" in problem.what and problem.where == PATH and problem.hint


SECRET = "s3cret-w0rd"


@pytest.mark.parametrize(
    ("settings", "secrets"),
    [
        ({"proxies": {"http-proxy": f"http://user:{SECRET}@proxy:3128", "no-proxy": "localhost"}}, 1),
        ({"proxies": {"https-proxy": f"user:{SECRET}@proxy:3128"}}, 1),
        ({"registry-mirrors": ["https://mirror", f"https://user:{SECRET}@mirror"]}, 1),
        ({"log-opts": {"splunk-token": SECRET, "splunk-url": "https://splunk:8088", "max-size": "10m"}}, 1),
        ({"auths": {"registry": {"auth": SECRET}, "other": {"identitytoken": SECRET}}}, 2),
        ({"labels": [f"api_key={SECRET}", "rack=7"]}, 1),
        ({"runtimes": {"nvidia": {"path": "/usr/bin/nvidia-container-runtime", "runtimeArgs": ["--debug"]}}}, 0),
        ({"hosts": ["unix:///var/run/docker.sock", "tcp://[::1]:2375"], "tlskey": "/etc/docker/key.pem", "dns": ["::1"]}, 0),
        (
            {"insecure-registries": ["a:5000"], "exec-opts": ["native.cgroupdriver=cgroupfs"], "live-restore": True, "mtu": 1400},
            0,
        ),
    ],
)
def test_secrets_are_hidden_and_nothing_else(settings: dict[str, Any], secrets: int) -> None:
    shown = mask_settings(settings)
    assert SECRET not in json.dumps(shown) and len(list_secrets(settings)) == secrets
    assert all(SECRET in text for text in list_secrets(settings))
    if not secrets:
        assert shown == settings


@pytest.mark.parametrize(
    ("before", "after", "reloadable"),
    [
        ({}, {"live-restore": True, "debug": True, "labels": ["a"]}, True),
        ({"log-driver": "local"}, {"log-driver": "local", "runtimes": {"nvidia": {}}, "default-runtime": "nvidia"}, True),
        ({"log-driver": "local"}, {"log-driver": "json-file"}, False),
        ({}, {"features": {"cdi": True}}, False),
        ({}, {"exec-opts": ["native.cgroupdriver=cgroupfs"]}, False),
        ({"debug": True}, {"debug": False, "data-root": "/x"}, False),
        ({"data-root": "/x"}, {}, False),
    ],
)
def test_what_dockerd_reads_again_needs_no_restart(before: dict[str, Any], after: dict[str, Any], reloadable: bool) -> None:
    assert is_reloadable(before, after) is reloadable
