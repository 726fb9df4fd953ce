"""The files of an edge: certificates with their keys and last day, digests of client keys, and the hash over all of them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.router import certificate_files
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_files import assemble_files
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_layout import parse_config_hash

DAY = 86400
LONG = "k" * 32
CONFIG = "global\n    description anvil " + "0" * 64 + "\n"


def make_pair(folder: Path, days: int) -> tuple[Path, Path]:
    """A certificate and its key, which only their owner reads."""
    crt, key = folder / "host.pem", folder / "host.key"
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", str(days), "-subj", "/CN=e"]
    subprocess.run([*argv, "-keyout", str(key), "-out", str(crt)], check=True, capture_output=True)
    key.chmod(0o600)
    return crt, key


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_pair(tmp_path_factory.mktemp("tls"), 3)


def assemble(**given: Any) -> Any:
    base: dict[str, Any] = {"config": CONFIG, "maps": {}, "certificates": [], "clients": {}, "servers": {}, "secrets": {}}
    return assemble_files({**base, **given})


def test_a_certificate_is_joined_with_its_key_and_warns_before_it_expires(pair: tuple[Path, Path]) -> None:
    crt, key = pair
    made = assemble(certificates=[{"certificate": str(crt), "key": str(key)}])
    assert made.texts["private/host-0.pem"] == crt.read_text() + key.read_text()
    (day,) = made.expiry.values()
    assert day == time.strftime("%Y-%m-%d", time.gmtime(time.time() + 3 * DAY))
    (warning,) = made.warnings
    assert f"expires on {day}, in " in warning and "router_reload.yml" in warning
    key.chmod(0o640)
    loose = assemble(certificates=[{"certificate": str(crt), "key": str(key)}])
    assert any(f"chmod 600 {key}" in text for text in loose.warnings)
    key.chmod(0o600)


@pytest.mark.parametrize(("days", "told"), [(31, ""), (29.5, "in 29 days"), (0.5, "in 0 days"), (-1, "expired on")])
def test_a_certificate_is_told_from_thirty_days_before_its_end(days: float, told: str) -> None:
    _day, warning = certificate_files.describe_expiry("/c", 1_800_000_000 + days * DAY, 1_800_000_000)
    assert told in warning and bool(warning) is bool(told)


@pytest.mark.parametrize("years", [10, 40])  # UTCTime up to 2049, GeneralizedTime after that
def test_the_end_of_a_certificate_is_read_in_both_forms_of_time(tmp_path: Path, years: int) -> None:
    expires = certificate_files.read_expiry(make_pair(tmp_path, 365 * years)[0].read_text())
    assert expires is not None and abs(expires - time.time() - 365 * years * DAY) < 300
    assert certificate_files.read_expiry("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----") is None


def test_files_that_are_no_pair_of_certificate_and_key_are_all_told(pair: tuple[Path, Path], tmp_path: Path) -> None:
    crt, key = (str(path) for path in pair)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    wrong = [
        ((crt, ""), "there is no private key"),
        ((key, ""), "the file holds no certificate"),
        ((str(tmp_path / "binary"), ""), "it is no PEM file"),
        (("/nowhere", ""), "No such file"),
        ((crt, "/dev/zero"), "not a regular file"),
        ((crt, str(tmp_path)), "directory"),
        ((crt, crt), "there is no private key"),
    ]
    with pytest.raises(AnvilError) as raised:
        assemble(certificates=[{"certificate": certificate, "key": key} for (certificate, key), _told in wrong])
    found = [problem.what + " " + problem.why for problem in raised.value.problems]
    assert len(found) == len(wrong), found
    assert not [(told, text) for (_files, told), text in zip(wrong, found, strict=True) if told not in text]


def test_keys_of_clients_become_digests_and_no_file_has_them_in_clear() -> None:
    secrets = {"a1": "a" * 32, "a2": "b" * 32, "short": "c", "token": "t" * 32}
    made = assemble(clients={"alice": ["a1", "a2"], "bob": ["short"]}, servers={"routers": "token"}, secrets=secrets)
    lines = made.texts["private/clients.map"].splitlines()
    assert f"{hashlib.sha256(b'a' * 32).hexdigest()} alice" in lines and len(lines) == 3
    assert made.texts["private/servers.map"] == "routers " + "t" * 32 + "\n"
    assert "a" * 32 not in json.dumps(made.texts) and "bob" in made.warnings[0] and "guessed" in made.warnings[0]


def test_wrong_keys_are_all_told_and_never_shown() -> None:
    secrets = {"one": LONG, "same": LONG, "line": LONG + "\nx", "space": LONG + " x", "accent": LONG + "é"}
    clients = {"a": ["one"], "b": ["same"], "c": ["line"], "d": ["space"], "e": ["accent"], "f": ["none"]}
    with pytest.raises(AnvilError) as raised:
        assemble(clients=clients, servers={"routers": "gone"}, secrets=secrets)
    text = raised.value.as_text()
    assert len(raised.value.problems) == 6 and "clients a and b have the same key" in text and "secret gone has no value" in text
    assert LONG not in text


def test_the_hash_of_the_configuration_covers_every_file() -> None:
    def sealed(**given: Any) -> str:
        return parse_config_hash(assemble(**given).texts["haproxy.cfg"])

    alone = sealed()
    hashes = [
        alone,
        sealed(maps={"rates.map": "a 1\n"}),
        sealed(maps={"rates.map": "a 2\n"}),
        sealed(clients={"a": ["k"]}, secrets={"k": LONG}),
        sealed(clients={"a": ["k"]}, secrets={"k": LONG + "2"}),
    ]
    assert len(set(hashes)) == 5 and alone == "0" * 64
