# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules and dashboards of the role monitoring: what promtool says, what fires, and that only metrics which exist are used."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.anvil.serving.plugins.module_utils.watch.exposition import METRICS
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render_edge import METRICS as CLIENT_METRICS
from conftest import REPO

pytestmark = pytest.mark.slow

ROLE = REPO / "roles" / "monitoring"
RULES = ROLE / "files" / "anvil.rules.yml"
GROUPS = yaml.safe_load(RULES.read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}
BOARDS = {path.stem: json.loads(path.read_text()) for path in (ROLE / "files" / "dashboards").glob("*.json")}
SERVE = '{host="gpu1",serve="fast",engine="vllm"'
# Alert -> (series, minutes after which it fires, its labels without severity). Each series has a sample every minute.
FIRES: dict[str, tuple[dict[str, str], int, dict[str, str]]] = {
    "AnvilServeHung": ({f'anvil_serve_state{SERVE},state="hung"}}': "1x60"}, 2, {"state": "hung"}),
    "AnvilServeNotRestarted": ({f"anvil_serve_given_up{SERVE}}}": "1x60"}, 1, {}),
    "AnvilServeWrong": ({f'anvil_serve_state{SERVE},state="wrong"}}': "1x60"}, 3, {"state": "wrong"}),
    "AnvilServeDead": ({f'anvil_serve_state{SERVE},state="dead"}}': "1x60"}, 3, {"state": "dead"}),
    "AnvilServeRestartLoop": ({f"anvil_serve_docker_restarts{SERVE}}}": "0+1x60"}, 16, {}),
    "AnvilKvCacheFull": (
        {f"anvil_serve_kv_cache_usage_ratio{SERVE}}}": "0.99x60", f"anvil_serve_requests_waiting{SERVE}}}": "4x60"},
        11,
        {},
    ),
    "AnvilQueueGrowing": ({f"anvil_serve_requests_waiting{SERVE}}}": "10+2x60"}, 20, {}),
    "AnvilDrift": ({f"anvil_serve_drift{SERVE}}}": "1x1500"}, 1445, {}),
}


def run(*words: str) -> str:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed: tests/testbed/tools.sh")


def test_every_alert_says_how_bad_it_is_what_it_is_and_what_to_type() -> None:
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert set(rule["annotations"]) == {"summary", "do"}, name
        assert re.search(r"ansible-playbook |systemctl |journalctl ", rule["annotations"]["do"]), name
        for playbook in re.findall(r"playbooks/\w+\.yml", rule["annotations"]["do"]):
            assert (REPO / playbook).exists(), (name, playbook)


def test_rules_and_dashboards_use_metrics_that_exist() -> None:
    made = {rule["record"] for group in GROUPS for rule in group["rules"] if "record" in rule}
    expressions = [rule["expr"] for group in GROUPS for rule in group["rules"]]
    expressions += [target["expr"] for board in BOARDS.values() for panel in board["panels"] for target in panel["targets"]]
    used = {name for text in expressions for name in re.findall(r"\b(?:anvil_|tier:|serve:|process_)[a-z0-9_:]+", text)}
    known = {*METRICS, *CLIENT_METRICS, *made}
    unknown = {name for name in used if re.sub("_bucket$", "", name) not in known}
    assert not unknown


def test_dashboards_have_what_grafana_needs() -> None:
    assert sorted(BOARDS) == ["client", "fleet", "host", "tier"]
    assert len({board["uid"] for board in BOARDS.values()}) == 4
    for name, board in BOARDS.items():
        variables = {one["name"] for one in board["templating"]["list"]}
        ids = [panel["id"] for panel in board["panels"]]
        assert len(ids) == len(set(ids)) and "datasource" in variables
        for panel in board["panels"]:
            assert panel["title"] and panel["targets"], name
            text = json.dumps(panel)
            assert set(re.findall(r"\$\{?(\w+)", text)) <= variables, (name, panel["title"])


def test_the_documentation_lists_every_alert() -> None:
    text = (REPO / "docs" / "monitoring.md").read_text()
    assert sorted(re.findall(r"^\| `(Anvil\w+)` \|", text, re.MULTILINE)) == sorted(ALERTS)


@needs_promtool
def test_promtool_accepts_the_rules() -> None:
    assert "SUCCESS" in run("check", "rules", str(RULES))


def build_case(alert: str) -> dict[str, Any]:
    series, minutes, labels = FIRES[alert]
    rule = ALERTS[alert]
    given = {"host": "gpu1", "serve": "fast", "engine": "vllm", **labels, **rule["labels"]}
    texts = dict(rule["annotations"])
    for name, value in given.items():
        texts = {key: text.replace("{{ $labels." + name + " }}", value) for key, text in texts.items()}
    listed = [{"series": name, "values": values} for name, values in series.items()]
    return {"interval": "1m", "input_series": listed, "alerts": [(alert, minutes, given, texts)]}


@needs_promtool
def test_alerts_fire(tmp_path: Path) -> None:
    """What fires, with the words that are sent: the alerts over one serve. Those over several series are a file."""
    tests = []
    for alert in FIRES:
        case = build_case(alert)
        ((name, minutes, labels, texts),) = case.pop("alerts")
        shown = {key: text.replace("{{ $value }}", "30") for key, text in texts.items()}
        fired = [{"exp_labels": labels, "exp_annotations": shown}]
        first = {"eval_time": "0m", "alertname": name, "exp_alerts": [] if "for" in ALERTS[name] or minutes > 1 else fired}
        last = {"eval_time": f"{minutes}m", "alertname": name, "exp_alerts": fired}
        tests.append({**case, "alert_rule_test": [first, last]})
    path = tmp_path / "cases.yml"
    path.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    run("test", "rules", str(path))


@needs_promtool
def test_alerts_of_tiers_and_hosts_fire_and_stay_silent(tmp_path: Path) -> None:
    text = (REPO / "tests" / "unit" / "data" / "anvil.rules.test.yml").read_text()
    path = tmp_path / "cases.yml"
    path.write_text(text.replace("RULES", str(RULES)))
    run("test", "rules", str(path))
    tested = {*re.findall(r"alertname: (\w+)", text), *FIRES}
    assert tested == set(ALERTS), "every alert has a case in which it fires"
