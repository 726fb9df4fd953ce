# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The slow survey: drift, claims, live revisions and certificates. The Docker Engine is a stand-in here, real in
tests/integration/watch/test_monitoring.py."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import LABEL_VRAM
from ansible_collections.anvil.serving.plugins.module_utils.watch import host_survey
from ansible_collections.anvil.serving.plugins.module_utils.watch.host_survey import MIB, survey_host
from ansible_collections.anvil.serving.plugins.module_utils.watch.settings import Pointer, WatchSettings

A, B = "GPU-aaaa", "GPU-bbbb"
REVISION = "0123456789abcdef" * 4


def container(name: str, uuids: list[str], claim: str | None, state: str = "running") -> dict[str, Any]:
    """A container as the Docker Engine describes it, with what the ledger reads."""
    labels = {} if claim is None else {LABEL_VRAM: claim}
    requests = [{"Driver": "nvidia", "Count": 0, "DeviceIDs": uuids, "Capabilities": [["gpu"]]}] if uuids else []
    return {
        "Id": name,
        "Name": "/" + name,
        "State": {"Status": state},
        "Config": {"Labels": labels, "Env": []},
        "HostConfig": {"DeviceRequests": requests, "Runtime": "runc", "Devices": []},
        "Mounts": [],
    }


class Engine:
    """A stand-in for the Docker Engine."""

    def __init__(self, *containers: dict[str, Any]) -> None:
        self.found = {one["Id"]: one for one in containers}
        self.archives: dict[str, dict[str, Any]] = {}

    def list_containers(self) -> list[dict[str, Any]]:
        return [{"Id": name, "State": one["State"]["Status"]} for name, one in self.found.items()]

    def inspect_container(self, name: str) -> dict[str, Any] | None:
        return self.found.get(name)

    def read_archive(self, name: str, path: str, limit: int) -> tuple[dict[str, Any], bytes] | None:
        stat = self.archives.get(f"{name}:{path}")
        return None if stat is None else (stat, b"")


def survey(engine: Any, **given: Any) -> host_survey.Survey:
    return survey_host(engine, WatchSettings("p", "/nowhere", "/data", "unix:///s", 9419, **given), 100.0)


@pytest.mark.parametrize(
    ("containers", "claimed"),
    [
        ([], {A: 0, B: 0}),
        ([container("a", [A], "1000"), container("b", [A], "500")], {A: 1500, B: 0}),
        ([container("a", [A, B], f"{A}=1000,{B}=10")], {A: 1000, B: 10}),
        ([container("a", [A], "1000"), container("b", [A], None)], {B: 0}),
        ([container("a", ["all"], "1000")], {A: 1000, B: 1000}),
        ([container("a", ["0"], "1000")], {}),
        ([container("a", [A], "1000", "exited")], {A: 0, B: 0}),
        ([container("a", ["GPU-other"], "1000")], {A: 0, B: 0}),
        ([container("a", [], None)], {A: 0, B: 0}),
    ],
)
def test_claims_of_containers_add_up_by_card(containers: list[dict[str, Any]], claimed: dict[str, int]) -> None:
    found = survey(Engine(*containers), budgets={A: 8000, B: 9000})
    assert found.claimed == {uuid: mib * MIB for uuid, mib in claimed.items()}
    assert found.budget == {A: 8000 * MIB, B: 9000 * MIB}


def test_a_live_revision_is_read_from_its_pointer() -> None:
    engine = Engine(container("r", [], None))
    pointers = (Pointer("r", "/etc/anvil"), Pointer("gone", "/etc/anvil"))
    assert survey(engine, pointers=pointers).revisions == ()
    stat = {"linkTarget": "../revisions/" + REVISION, "mtime": "2026-11-30T10:00:00Z"}
    engine.archives["r:/etc/anvil/.anvil/live/r"] = stat
    (live,) = survey(engine, pointers=pointers).revisions
    assert (live.container, live.revision, live.promoted) == ("r", REVISION[:12], 1796032800.0)
    engine.archives["r:/etc/anvil/.anvil/live/r"] = {**stat, "linkTarget": "../../etc/passwd"}
    assert survey(engine, pointers=pointers).revisions == ()


def test_the_end_of_a_certificate_is_told_and_an_unreadable_one_is_a_failure(tmp_path: Path) -> None:
    pem = tmp_path / "host.pem"
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "9"]
    subprocess.run([*request, "-subj", "/CN=x", "-keyout", "/dev/null", "-out", str(pem)], check=True, capture_output=True)
    (tmp_path / "broken.pem").write_text("nothing")
    paths = tuple(str(tmp_path / name) for name in ("host.pem", "broken.pem", "missing.pem"))
    found = survey(Engine(), certificates=paths)
    assert list(found.certificates) == [str(pem)] and len(found.failures) == 2
    assert 8 < (found.certificates[str(pem)] - pem.stat().st_mtime) / 86400 < 9.1


def test_what_cannot_be_read_hides_nothing_else() -> None:
    class Broken(Engine):
        def list_containers(self) -> list[dict[str, Any]]:
            raise fail("the Docker Engine does not answer", "unix:///s")

    engine = Broken(container("r", [], None))
    engine.archives["r:/m/.anvil/live/r"] = {"linkTarget": REVISION, "mtime": "2026-11-30T10:00:00Z"}
    found = survey(engine, budgets={A: 1}, pointers=(Pointer("r", "/m"),))
    assert found.claimed == {} and len(found.revisions) == 1 and found.finished == 100.0
    assert len(found.failures) == 1 and "does not answer" in found.failures[0]
    with pytest.raises(AnvilError):
        engine.list_containers()
