# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of another container, an HAProxy, are promoted with the same safety as those of a router."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import run_module
from routersite import OLD_IMAGE, Site, new_site, wait_until

EDGE_IMAGE = "anvil.local/edge:1"
MOUNT = "/etc/proxy"


def haproxy(status: int, extra: str = "") -> str:
    return (
        "global\n  log stdout format raw local0 notice\n"
        "defaults\n  mode http\n  timeout connect 1s\n  timeout client 5s\n  timeout server 5s\n"
        f"frontend all\n  bind :8000\n{extra}"
        f"  http-request return status {status} content-type text/plain string live\n"
    )


class Proxy(Site):
    def promote(self, **given: Any) -> dict[str, Any]:
        base = {
            "container": self.name,
            "volume": self.volume,
            "mount": MOUNT,
            "image": EDGE_IMAGE,
            "writer_image": OLD_IMAGE,
            "validator": ["haproxy", "-c", "-f", MOUNT + "/haproxy.cfg"],
            "settle": 0.3,
            "grace": 2,
        }
        return run_module("anvil_router_promote", **{**base, **given})

    def start_proxy(self, **options: Any) -> None:
        self.api.create_container(
            EDGE_IMAGE,
            ["-W", "-db", "-f", MOUNT + "/haproxy.cfg"],
            name=self.name,
            ports=[8000],
            **options,
            host_config=self.api.create_host_config(
                binds=[f"{self.volume}:{MOUNT}:ro"],
                port_bindings={8000: ("127.0.0.1",)},
                restart_policy={"Name": "unless-stopped"},
            ),
        )
        self.api.start(self.name)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    site = new_site()
    made = Proxy(site.api, site.engine, "proxy-" + uuid.uuid4().hex[:8], EDGE_IMAGE)
    yield made
    made.clean()


def files(status: int, **more: str) -> list[dict[str, str]]:
    return [
        {"dest": "haproxy.cfg", "content": haproxy(status)},
        *({"dest": name, "content": text} for name, text in more.items()),
    ]


def test_an_haproxy_configuration_is_promoted_refused_and_rolled_back(proxy: Proxy, tmp_path: Path) -> None:
    assert proxy.promote(files=files(200))["changed"]
    proxy.start_proxy()
    wait_until(lambda: proxy.healthz() == 200)
    assert not proxy.promote(files=files(200), health_path="/")["changed"]

    refused = proxy.promote(files=[{"dest": "haproxy.cfg", "content": haproxy(200, "  no-such-word\n")}])
    assert refused["failed"] and "no-such-word" in str(refused["problems"]), refused
    assert not proxy.promote(files=files(200))["changed"]

    source = tmp_path / "haproxy.cfg"
    source.write_bytes(haproxy(200, "  # second\n").replace("\n", "\r\n").encode())
    done = proxy.promote(
        files=[{"dest": MOUNT + "/haproxy.cfg", "src": str(source)}, {"dest": "maps/hosts.map", "content": "a b\n"}]
    )
    assert done["changed"] and done["reloaded"], done
    wait_until(lambda: proxy.healthz() == 200)
    seen = proxy.engine.exec_in(proxy.name, ["cat", MOUNT + "/maps/hosts.map", MOUNT + "/haproxy.cfg"]).output
    assert seen.startswith("a b\n") and "\r" not in seen

    bad = proxy.promote(files=files(203), health_path="/", start_timeout=2)  # the health check requires 200
    assert bad["failed"] and "rolled back to" in bad["msg"], bad
    assert proxy.healthz() == 200

    back = proxy.promote(state="rolled_back")
    assert back["changed"], back
    wait_until(lambda: proxy.healthz() == 200)
    gone = proxy.engine.exec_in(proxy.name, ["ls", MOUNT + "/maps"])
    assert "hosts.map" not in gone.output


def test_a_changed_set_of_files_converges_in_one_run(proxy: Proxy) -> None:
    sets = [files(200, **{"a.map": "x y\n"}), files(200, **{"b.map": "x y\n", "c.map": ""})]
    assert proxy.promote(files=sets[0])["changed"]
    proxy.start_proxy()
    wait_until(lambda: proxy.healthz() == 200)
    revisions = []
    for given in (sets[1], sets[0], sets[1]):
        done = proxy.promote(files=given)
        assert done["changed"] and "took over" not in str(done["actions"]), done
        revisions.append(done["revision"]["new"])
        for check in (True, False):
            assert not proxy.promote(files=given, check=check)["changed"], check
    back = proxy.promote(state="rolled_back", revision=revisions[1])
    assert back["changed"] and "took over" not in str(back["actions"]), back
    assert not proxy.promote(state="rolled_back", revision=revisions[1])["changed"]
    assert not proxy.promote(files=sets[0])["changed"]
    refused = proxy.promote(files=[*files(200, **{"d.map": ""}), {"dest": "e.map", "content": ""}], probes=[{"path": "/none"}],
                            health_path="/", start_timeout=2, validator=["true"], settle=0)  # fmt: skip
    assert not refused["failed"], refused
    listed = proxy.engine.exec_in(proxy.name, ["ls", MOUNT]).output.split()
    assert listed == ["d.map", "e.map", "haproxy.cfg"], listed


def test_a_signal_reloads_without_a_restart(proxy: Proxy) -> None:
    given = {"reload_signal": "SIGUSR2", "health_path": "/"}
    assert proxy.promote(files=files(200), **given)["changed"]
    proxy.start_proxy()
    wait_until(lambda: proxy.healthz() == 200)
    started = proxy.inspect()["State"]["StartedAt"]
    probes = [{"path": "/", "status": [200], "headers": {"X-New": "1"}}]
    done = proxy.promote(files=[{"dest": "haproxy.cfg", "content": haproxy(200, "  # new\n")}], probes=probes, **given)
    assert done["changed"] and done["reloaded"], done
    assert proxy.inspect()["State"]["StartedAt"] == started
    assert not proxy.promote(files=[{"dest": "haproxy.cfg", "content": haproxy(200, "  # new\n")}], **given)["changed"]


@pytest.mark.parametrize(
    "dest",
    ["../x", "/etc/passwd", "a/../../x", ".anvil/journal", "a//b", "", "a\nb", "$(id)", ";rm -rf /", "x" * 300, "meta.json"],
)
def test_destinations_stay_below_the_mount(proxy: Proxy, dest: str) -> None:
    answer = proxy.promote(files=[{"dest": dest, "content": "x"}])
    assert answer["failed"] and answer["problems"], answer
    assert proxy.engine.inspect_volume(proxy.volume) is None


def test_a_source_that_is_not_utf_8_is_reported(proxy: Proxy, tmp_path: Path) -> None:
    source = tmp_path / "bytes"
    source.write_bytes(b"\xff\xfe")
    answer = proxy.promote(files=[{"dest": "a", "src": str(source)}, {"dest": "b", "src": "/nowhere"}, {"dest": "b"}])
    assert answer["failed"] and len(answer["problems"]) == 3 and "UTF-8" in answer["msg"], answer


def test_layout_plain_restores_plain_files_without_a_restart(running: Site) -> None:
    live = running.live_files()
    started = running.inspect()["State"]["StartedAt"]
    assert running.promote(layout="plain", check=True)["changed"]
    done = running.promote(layout="plain")
    assert done["changed"], done
    snapshot = running.snapshot()
    assert snapshot.inner == {} and {entry.kind for entry in snapshot.stock.values()} == {"file"}
    assert running.live_files() == live and running.inspect()["State"]["StartedAt"] == started
    assert not running.promote(layout="plain")["changed"]
    assert running.promote(config=live["config.toml"], profile=live["profile.json"])["changed"]


def test_the_health_check_of_the_image_decides_unless_it_failed_before(proxy: Proxy) -> None:
    look = "undef $/; exit 0 if <> =~ /sound/; print qq(the mark is missing\\n); exit 1"
    check = {"test": ["CMD", "perl", "-e", look, MOUNT + "/haproxy.cfg"], "interval": 10**9, "retries": 2, "start_period": 0}
    sound = [{"dest": "haproxy.cfg", "content": haproxy(200, "  # sound\n")}]
    proxy.promote(files=sound)
    proxy.start_proxy(healthcheck=check)
    wait_until(lambda: proxy.inspect()["State"]["Health"]["Status"] == "healthy")
    unsound = [{"dest": "haproxy.cfg", "content": haproxy(200, "  # broken\n")}]
    for health_path in ("", "/"):  # with and without evidence of our own
        failed = proxy.promote(files=unsound, health_path=health_path, settle=1.5)
        assert failed["failed"] and "its health check fails: the mark is missing" in failed["msg"], failed
        assert "rolled back to" in failed["msg"] and not proxy.promote(files=sound)["changed"]
    # A check that failed before proves nothing about the next candidate: the operator is told.
    assert proxy.promote(files=unsound, reload=False)["changed"]
    proxy.api.restart(proxy.name, timeout=1)
    wait_until(lambda: proxy.inspect()["State"]["Health"]["Status"] == "unhealthy")
    same = proxy.promote(files=unsound)
    assert not same["changed"] and "the health check of its image fails: the mark is missing" in str(same["warnings"]), same
    other = [{"dest": "haproxy.cfg", "content": haproxy(200, "  # broken again\n")}]
    done = proxy.promote(files=other, settle=3)
    assert done["changed"] and "its health check fails, as it did before" in str(done["warnings"]), done
