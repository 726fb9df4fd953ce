# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Prometheus reads a real watch, edge, router and llama-servers: no panel and no rule may be without data."""

from __future__ import annotations

import http.client
import json
import re
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from bed import RTX_5090, Bed
from conftest import REPO
from monitoringsamples import record_exposition
from workflowsite import Chain, ask, wait_for

ROLE = REPO / "roles" / "monitoring"
PROMETHEUS, AWAY, RECORDED = 9091, 9443, 9444
KEY, ALICE = "key-of-the-prometheus-of-the-tests", "key-of-alice-in-the-tests-of-monitoring"
# What the test-bed cannot have: figures that only vLLM and SGLang report, cards, and alerts that fire. They must have data with a
# recorded exposition besides.
NEEDS_MORE = re.compile(r"kv_cache|preemptions|anvil_serve_requests_total|_duration_|first_token|anvil_gpu_|^ALERTS")


def get(path: str) -> Any:
    """The JSON at a path of the Prometheus; None while it starts."""
    connection = http.client.HTTPConnection("127.0.0.1", PROMETHEUS, timeout=10)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        text = reply.read()
        return None if reply.status == 503 else json.loads(text)
    finally:
        connection.close()


def query(expression: str) -> list[Any]:
    answer = get("/api/v1/query?query=" + quote(expression))
    if answer is None:
        return []
    assert answer["status"] == "success", (expression, answer)
    found: list[Any] = answer["data"]["result"]
    return found


def list_expressions() -> Iterator[tuple[str, str]]:
    """(what needs it, expression): the panels, with all variables as Grafana sets them for all, and what each rule reads."""
    for path in sorted((ROLE / "files" / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}: {target['refId']}", re.sub(r"\$\w+", ".*", target["expr"])

    for group in yaml.safe_load((ROLE / "files" / "anvil.rules.yml").read_text())["groups"]:
        for rule in group["rules"]:
            if "record" in rule:
                yield f"record: {rule['record']}", rule["expr"]
            for selector in list_selectors(rule["expr"]) if "alert" in rule else ():
                yield f"alert: {rule['alert']} {selector}", selector


def list_selectors(expression: str) -> list[str]:
    """What an alert reads: each metric with its labels, without the comparison that says the fault."""
    bare = re.sub(r"\b(by|on)\s*\([^)]*\)", "", expression)
    return sorted(set(re.findall(r"\b(?:anvil_|haproxy_|tier:|serve:|up\b)[\w:]*(?:\{[^}]*\})?", bare)))


class Recorded:
    """An exposition as a target: what watch writes for engines, cards and disks that are not here."""

    def __init__(self, write: Callable[[], str]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = write().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_words: Any) -> None:
                """Nothing is logged."""

        self.server = ThreadingHTTPServer(("127.0.0.1", RECORDED), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@dataclass
class Monitored:
    """The host ``box`` with serves, router and edge; the host ``mon`` with a Prometheus that reads it through its edge."""

    chain: Chain
    folder: Path

    def write(self, *words: str) -> int:
        """Run the playbook, and return how many tasks changed something on the host of the Prometheus."""
        code, printed = self.chain.play("monitoring.yml", *words)
        assert code == 0, printed[-6000:]
        (count,) = re.findall(r"^mon .* changed=(\d+)", printed, re.MULTILINE)
        return int(count)


def write_inventory(folder: Path) -> Path:
    secrets = {"router_token": "t" * 32, "prometheus_key": KEY, "alice_key": ALICE}
    for name, value in secrets.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(value)
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "monitoring_address": "127.0.0.1"}
    llama = {"engine": "llama_cpp", "model": "/models/fast.gguf", "args": ["-c", "1024", "-np", "2", "-t", "1", "--metrics"]}
    llama |= {
        "image": "anvil.local/llama-server:1",
        "volumes": [f"{folder}/models:/models:ro"],
        "gpus": ["gpu0"],
        "vram_mib": 100,
    }
    box = {
        **local,
        "anvil_root": str(folder / "anvil"),
        "anvil_gpus": {"gpu0": {"uuid": RTX_5090.uuid, "vram_mib": 32607, "compute_capability": "12.0"}},
        "anvil_secrets": {name: f"{{{{ lookup('ansible.builtin.file', '{folder}/{name}') }}}}" for name in secrets},
        "anvil_serves": {"fast": {**llama, "port": 30003}},
        "anvil_router": {
            "image": "anvil.local/router:0.13.2",
            "publish": "127.0.0.1:8000",
            "token": "router_token",
            "tiers": [{"id": "fast", "serve": "fast"}],
        },
        "anvil_clients": {"alice": {"keys": ["alice_key"]}},
        "anvil_edge": {
            "tls": {"certificate": str(folder / "host.pem"), "key": str(folder / "host.key")},
            "monitoring": {"publish": f"127.0.0.1:{AWAY}", "keys": ["prometheus_key"]},
        },
        "anvil_watch": True,
        "watch_data": str(folder / "data"),
        "watch_limits": {"tick": 0.5, "probe_idle": 1, "survey": 2},
    }
    mon = {
        **local,
        "monitoring_install": False,
        "monitoring_service": False,
        "monitoring_group": "root",
        "monitoring_folder": str(folder / "etc"),
        "monitoring_defaults_folder": str(folder / "default"),
        "monitoring_dashboards": str(folder / "dashboards"),
        "monitoring_grafana_folder": str(folder / "grafana"),
        "monitoring_grafana": True,
        "monitoring_listen": f"127.0.0.1:{PROMETHEUS}",
        "monitoring_interval": "1s",
        "monitoring_key": KEY,
        "monitoring_ca": str(folder / "host.pem"),
    }
    path = folder / "inventory.json"
    path.write_text(json.dumps({"all": {"hosts": {"box": box}, "children": {"monitoring": {"hosts": {"mon": mon}}}}}))
    return path


@pytest.fixture(scope="module")
def monitored(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    bed.start_engine()
    bed.clear()
    folder = tmp_path_factory.mktemp("monitored")
    folder.chmod(0o755)
    for name in ("etc", "default", "models", "grafana/datasources", "grafana/dashboards"):
        (folder / name).mkdir(parents=True)
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=box"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / "host.key"), "-out", str(folder / "host.pem")]
    subprocess.run([*request, *names], check=True, capture_output=True)
    model = [sys.executable, str(REPO / "bootstrap" / "tinymodel.py"), str(folder / "models" / "fast.gguf")]
    subprocess.run([*model, "--phrase", "the fast tier answers", "--name", "fast"], check=True)
    chain = Chain(bed, folder, inventory=write_inventory(folder))
    code, printed = chain.play("site.yml", "-l", "box")
    assert code == 0, printed[-6000:]
    yield Monitored(chain, folder)
    bed.clear()


def ask_alice(folder: Path) -> int:
    trust = ssl.create_default_context(cafile=str(folder / "host.pem"))
    body = {"model": "fast", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
    return ask(8000, "POST", "/v1/chat/completions", body, {"Authorization": "Bearer " + ALICE}, trust=trust).status


def read_away(folder: Path, path: str, key: str = KEY) -> int:
    trust = ssl.create_default_context(cafile=str(folder / "host.pem"))
    return ask(AWAY, "GET", path, None, {"Authorization": "Bearer " + key}, trust=trust).status


def test_no_panel_and_no_rule_is_without_data(monitored: Monitored) -> None:
    folder = monitored.folder
    assert ask_alice(folder) == 200
    wait_for("watch behind the edge", lambda: read_away(folder, "/watch") == 200)
    # The key opens nothing else, and nothing else opens the metrics.
    assert [read_away(folder, path) for path in ("/metrics", "/clients", "/state", "/alive/fast")] == [200, 200, 404, 404]
    assert [read_away(folder, "/watch", key) for key in (ALICE, "x" * 32)] == [403, 401]
    predicted = monitored.write("--check")
    assert not list((folder / "etc").rglob("*.yml"))
    assert monitored.write() == predicted
    (target,) = (folder / "etc" / "anvil").glob("*/box.json")
    assert target.parent.name == "away"
    # A second run changes nothing but the target of a host that the inventory does not have.
    (target.parent / "gone.json").write_text("[]")
    assert monitored.write() == 1 and not (target.parent / "gone.json").exists()

    storage = [f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address=127.0.0.1:{PROMETHEUS}"]
    config = f"--config.file={folder / 'etc' / 'prometheus.yml'}"
    with open(folder / "prometheus.log", "wb") as log:
        process = subprocess.Popen(["prometheus", config, *storage], stdout=log, stderr=log)
    try:
        wait_for("all targets", lambda: len(query("up == 1")) == 4)  # Prometheus itself, watch, edge, clients
        assert ask_alice(folder) == 200
        time.sleep(4)  # two surveys, and rates
        panels = dict(list_expressions())
        missing = {what: expression for what, expression in panels.items() if not query(expression)}
        rest = {what: text for what, text in missing.items() if not NEEDS_MORE.search(text)}
        assert not rest, json.dumps(rest, indent=1)
        # The others, from what watch writes for other engines, cards and disks.
        Recorded(record_exposition)
        labels = {"job": "anvil-watch", "host": "recorded"}
        recorded = [{"targets": [f"127.0.0.1:{RECORDED}"], "labels": labels}]
        (folder / "etc" / "anvil" / "here" / "recorded.json").write_text(json.dumps(recorded))
        wait_for("the recorded exposition", lambda: query('up{host="recorded"} == 1'), 40)
        wait_for("rates", lambda: query('rate(anvil_serve_requests_total{host="recorded"}[5m]) > 0'))
        time.sleep(2)
        missing = {what: expression for what, expression in missing.items() if not query(expression)}
        assert not missing, json.dumps(missing, indent=1)
        rules = get("/api/v1/rules")["data"]["groups"]
        assert not [rule for group in rules for rule in group["rules"] if rule["health"] != "ok"], rules
    finally:
        process.terminate()
        process.wait(20)
