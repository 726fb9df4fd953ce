"""Functions shared by the benchmarks: the test-bed, timed tasks, a table, and one JSON object as the last line."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "tests" / name) for name in ("", "support", "testbed")]

from bed import Bed  # noqa: E402
from conftest import COLLECTIONS, pytest_configure  # noqa: E402

ANSIBLE = Path(sys.executable).parent / "ansible-playbook"


def enter_bed(*images: str) -> Bed:
    """Start the bed with these images and run this program again inside it; inside the bed, return it."""
    bed = Bed()
    if bed.is_inside():
        pytest_configure()
        return bed
    bed.up(images)
    inside = bed.argv_inside([sys.executable, *sys.argv])
    os.execvpe(inside[0], inside, {**os.environ, **bed.environment})
    raise AssertionError("exec does not return")


def play(folder: Path, tasks: list[dict[str, Any]], **variables: Any) -> list[dict[str, Any]]:
    """Run tasks on this machine and return the name, seconds and result of each."""
    (folder / "vars.json").write_text(json.dumps(variables))
    playbook = [{"hosts": "localhost", "gather_facts": False, "vars_files": ["vars.json"], "tasks": tasks}]
    (folder / "play.yml").write_text(json.dumps(playbook))
    (folder / "hosts").write_text(f"localhost ansible_connection=local ansible_python_interpreter={sys.executable}\n")
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
    }
    argv = [str(ANSIBLE), "-i", str(folder / "hosts"), str(folder / "play.yml")]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the play failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return [_timed(task) for task in json.loads(done.stdout[done.stdout.index("{") :])["plays"][0]["tasks"]]


def _timed(task: dict[str, Any]) -> dict[str, Any]:
    from datetime import datetime

    start, end = (datetime.fromisoformat(task["task"]["duration"][key].rstrip("Z")) for key in ("start", "end"))
    return {
        "name": task["task"]["name"],
        "seconds": (end - start).total_seconds(),
        "result": task["hosts"]["localhost"],
    }


def medians(timed: list[dict[str, Any]]) -> dict[str, float]:
    """Median seconds per task name; the first run of each task is a warm-up and does not count."""
    by_name: dict[str, list[float]] = {}
    for task in timed:
        by_name.setdefault(task["name"], []).append(task["seconds"])
    return {name: statistics.median(seconds[1:]) for name, seconds in by_name.items()}


def report(title: str, rows: dict[str, float], ratios: dict[str, float]) -> None:
    """Print a table of seconds, then the ratios as JSON on the last line."""
    print(title)
    for name, seconds in rows.items():
        print(f"  {name:<44}{seconds * 1000:>9.0f} ms")
    print(json.dumps({"bench": Path(sys.argv[0]).name, **{key: round(value, 2) for key, value in ratios.items()}}))
