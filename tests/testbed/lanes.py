"""Run the integration tests and the molecule scenarios, several at a time, each lane on an engine of its own.

    lanes.py [--lanes N] [--exclude JOB] [JOB...]

A job is one file of tests/integration or one molecule scenario; a lane takes the next job when it is free, the longest
first (by the seconds of the last run; before there was one, molecule and then the larger files). What a job prints goes
to .cache/lanes/JOB.log, and to the screen when it fails. Two lanes suit two cores: the tests mostly wait.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bed import REPO

LOGS = REPO / ".cache" / "lanes"
SECONDS = LOGS / "seconds.json"
BED = (sys.executable, str(Path(__file__).with_name("bed.py")))
WHEELS = (sys.executable, str(Path(__file__).with_name("wheels.py")))


@dataclass(frozen=True)
class Job:
    """What one lane runs at a time; guess: how long it may take, only good to compare jobs by."""

    name: str
    argv: tuple[str, ...]
    guess: float


def find_jobs(only: Sequence[str], excluded: Sequence[str]) -> list[Job]:
    """All jobs but the excluded, or those named; the longest first."""
    known = json.loads(SECONDS.read_text()) if SECONDS.exists() else {}
    jobs = [
        Job(name, ("molecule", "test", "--scenario-name", name), known.get(name, 1e6))
        for name in sorted(path.parent.name for path in REPO.glob("extensions/molecule/*/molecule.yml"))
    ]
    for path in sorted(REPO.glob("tests/integration/test_*.py")):
        jobs.append(Job(path.stem, ("pytest", str(path)), known.get(path.stem, path.stat().st_size / 100)))
    unknown = {*only, *excluded} - {job.name for job in jobs}
    if unknown:
        raise SystemExit(f"lanes.py: no such job: {', '.join(sorted(unknown))}; there are: {', '.join(job.name for job in jobs)}")
    chosen = [job for job in jobs if job.name not in excluded and (not only or job.name in only)]
    return sorted(chosen, key=lambda job: -job.guess)


class Lanes:
    """The jobs that wait, and how those that ran went."""

    def __init__(self, jobs: list[Job]) -> None:
        self.waiting = jobs
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []
        self.lock = threading.Lock()
        self.fetching = threading.Lock()

    def run_lane(self, number: int) -> None:
        """Bring the lane's bed up and run jobs on it until none waits."""
        # The first lane's bed is the one that `make integration` uses too.
        env = {**os.environ, **({"ANVIL_BED": f"lane{number}"} if number else {})}
        if not self._run(f"bed-{number}", (*BED, "up"), env):
            return
        with self.fetching:  # the wheels are the same for all; the first lane fetches them
            self._run(f"wheels-{number}", WHEELS, env)
        while True:
            with self.lock:
                if not self.waiting:
                    break
                job = self.waiting.pop(0)
            # ansible-lint and molecule install a copy of the collection into HOME: each job has a home of its own.
            home = LOGS / "home" / job.name
            home.mkdir(parents=True, exist_ok=True)
            scenario = {"HOME": str(home)} if job.argv[0] == "molecule" else {}
            self._run(job.name, (*BED, "run", "--", *job.argv), {**env, **scenario})
        self._run(f"bed-{number}-down", (*BED, "down"), env)

    def _run(self, name: str, argv: Sequence[str], env: dict[str, str]) -> bool:
        log = LOGS / f"{name}.log"
        began = time.monotonic()
        with log.open("w") as out:
            code = subprocess.run(argv, stdout=out, stderr=subprocess.STDOUT, env=env, cwd=REPO, check=False).returncode
        took = time.monotonic() - began
        lines = log.read_text(errors="replace").splitlines() or [""]
        with self.lock:
            self.seconds[name] = round(took, 1)
            if code:
                self.failed.append(name)
                print("\n".join(lines))
            print(f"{took:6.0f} s  {name}: {'FAILED' if code else lines[-1].strip(' =')}", flush=True)
        return not code


def main() -> int:
    """The command line: 0 when every job passed, and none was left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lanes", type=int, default=2, metavar="N")
    parser.add_argument("--exclude", action="append", default=[], metavar="JOB")
    parser.add_argument("jobs", nargs="*", metavar="JOB")
    arguments = parser.parse_args()
    LOGS.mkdir(parents=True, exist_ok=True)
    lanes = Lanes(find_jobs(arguments.jobs, arguments.exclude))
    with ThreadPoolExecutor(arguments.lanes) as pool:
        list(pool.map(lanes.run_lane, range(arguments.lanes)))
    known = json.loads(SECONDS.read_text()) if SECONDS.exists() else {}
    SECONDS.write_text(json.dumps({**known, **lanes.seconds}, indent=1, sort_keys=True))
    if lanes.failed or lanes.waiting:
        left = ", ".join(job.name for job in lanes.waiting)
        print(f"failed: {', '.join(lanes.failed)}" + (f"; not run: {left}" if left else ""), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
