"""Run every test of the project: several jobs at a time, on lanes that have an engine of their own.

    lanes.py [--lanes N] [--exclude JOB] [JOB...]

A job is a target of the Makefile that needs no engine (lint, unit, sanity), one file of tests/integration or one molecule
scenario. The former run one after the other on the last lane, before its engine is started. A lane takes the next of the
latter when it is free, the longest first (by the seconds of the last run, or of the table below), so that all end at about
the same time. What a job prints goes to .cache/lanes/JOB.log, and to the screen when it fails. Three lanes suit two cores: a
good part of the tests' time is spent waiting.

A job that failed on a lane is run once more at the end, alone; of a file only the tests that failed. A test that passes then
is unstable, which is a bug of the test or of the product: the last lines name each one with its first error, and its first log
is kept. More than MOST_UNSTABLE of them fail the run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from bed import GO, REPO

LOGS = REPO / ".cache" / "lanes"
SECONDS = LOGS / "seconds.json"
BED = (sys.executable, str(Path(__file__).with_name("bed.py")))
WHEELS = (sys.executable, str(Path(__file__).with_name("wheels.py")))
CHECKS = ("lint", "unit", "sanity")
MOST_UNSTABLE = 2
# pytest's line for a test that failed: `FAILED path::test - error`.
FAILED_TEST = re.compile(r"^(?:FAILED|ERROR) \S*?([\w.\[\]/-]+::.*)$", re.MULTILINE)
FIRST_BED = "testbed"  # the one that `make integration` uses too
# Seconds of what takes longest: what is still unknown is put in order by them.
LONG = {
    "test_workflow": 410, "test_promote_faults": 390, "test_workflow_replicas": 290, "test_promote": 250, "test_replicas": 240,
    "test_promote_replicas": 230, "test_serve": 180, "site": 180, "test_router_playbooks": 150, "test_workflow_server": 150,
    "test_serve_faults": 140, "test_fleet": 130, "host": 130, "test_progress": 120, "test_serve_kills": 110, "test_site": 100,
    "test_serve_verbs": 100, "test_llama_stack": 100, "test_workflow_faults": 90, "test_upload": 90,
    "test_workflow_artifacts": 90, "test_llama_sources": 90, "test_docker_host": 90, "test_image": 75, "test_experiment": 70,
}  # fmt: skip
# They build the same images, which takes longer than some of them do, from the same wheels: the first lane has them all.
TOGETHER = ("test_workflow", "test_workflow_artifacts", "test_workflow_page", "test_workflow_replicas")


@dataclass(frozen=True)
class Job:
    """What one lane runs at a time; guess: the seconds it may take, only good to compare jobs by."""

    name: str
    argv: tuple[str, ...]
    guess: float

    @property
    def needs_engine(self) -> bool:
        return self.name not in CHECKS

    @property
    def is_file(self) -> bool:
        return self.argv[0] == "pytest"


def failures(log: str, name: str) -> list[str]:
    """The failed tests of a job's log, each with its error; the job itself with its last line where it names no test."""
    lines = log.rstrip().splitlines() or ["no output"]
    return FAILED_TEST.findall(log) or [f"{name} - {lines[-1].strip(' =')}"]


def find_jobs(only: Sequence[str], excluded: Sequence[str]) -> list[Job]:
    """All jobs but the excluded, or those named; the longest first."""
    known = {**LONG, **(json.loads(SECONDS.read_text()) if SECONDS.exists() else {})}
    jobs = [Job(name, ("make", "--no-print-directory", name), 0) for name in CHECKS]
    for path in sorted(REPO.glob("extensions/molecule/*/molecule.yml")):
        name = path.parent.name
        jobs.append(Job(name, ("molecule", "test", "--scenario-name", name), known.get(name, 60)))
    for path in sorted(REPO.glob("tests/integration/*/test_*.py")):
        jobs.append(Job(path.stem, ("pytest", str(path)), known.get(path.stem, 60)))
    unknown = {*only, *excluded} - {job.name for job in jobs}
    if unknown:
        raise SystemExit(f"lanes.py: no such job: {', '.join(sorted(unknown))}; there are: {', '.join(job.name for job in jobs)}")
    chosen = [job for job in jobs if job.name not in excluded and (not only or job.name in only)]
    return sorted(chosen, key=lambda job: -job.guess)


class Lanes:
    """The jobs that wait, and how those that ran went."""

    def __init__(self, jobs: Sequence[Job], lanes: int) -> None:
        self.checks = [job for job in jobs if not job.needs_engine]
        self.on_lanes = [job for job in jobs if job.needs_engine]
        self.waiting = list(self.on_lanes)
        self.beds = [f"lane{number}" if number else FIRST_BED for number in range(lanes if self.waiting else 0)]
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []
        self.unstable: list[str] = []
        self.lock = threading.Lock()
        self.images_made = threading.Event()

    def run(self) -> None:
        """Run everything; returns when nothing runs any more."""
        with ThreadPoolExecutor(max(1, len(self.beds))) as pool:
            running = [*(pool.submit(self.run_lane, bed) for bed in self.beds[:-1]), pool.submit(self.run_checks, self.beds[-1:])]
        for one in running:
            one.result()
        self.run_again([job for job in self.on_lanes if job.name in self.failed])
        for bed in self.beds:
            self._run(f"{bed}-down", (*BED, "down"), {"ANVIL_BED": bed})

    def run_checks(self, beds: Sequence[str]) -> None:
        """What needs no engine, one after the other; then the lane of the bed, if there is one."""
        for job in self.checks:
            self._run(job.name, job.argv)
        for bed in beds:
            self.run_lane(bed)

    def run_lane(self, bed: str) -> None:
        """Bring the lane's bed up and run jobs on it until none waits."""
        if not self._bring_up(bed):
            return
        while job := self._take(bed):
            self._run_job(job, bed)

    def _take(self, bed: str) -> Job | None:
        """The next job that this lane may run."""
        with self.lock:
            for job in self.waiting:
                if job.name not in TOGETHER or bed == FIRST_BED:
                    self.waiting.remove(job)
                    return job
        return None

    def run_again(self, jobs: Sequence[Job]) -> None:
        """Run once more, alone, what failed on a lane: of a file only the tests that failed."""
        for job in jobs:
            log = LOGS / f"{job.name}.log"
            first = log.replace(log.with_suffix(".first.log"))
            self.failed.remove(job.name)
            last_failed = ("--last-failed",) if job.is_file else ()
            if self._run_job(replace(job, argv=(*job.argv, *last_failed)), FIRST_BED):
                self.unstable += failures(first.read_text(errors="replace"), job.name)

    def _bring_up(self, bed: str) -> bool:
        """The first lane makes the images, copies them to the others, and fetches the wheels; the others wait for the images."""
        env = {"ANVIL_BED": bed}
        if bed != FIRST_BED:
            self.images_made.wait()
            return self._run(bed, (*BED, "up"), env)
        others = self.beds[1:]
        try:
            came_up = self._run(bed, (*BED, "up"), env) and (not others or self._run("copy", (*BED, "copy", *others), env))
        finally:
            self.images_made.set()
        return came_up and self._run("wheels", WHEELS, env)

    def _run_job(self, job: Job, bed: str) -> bool:
        # ansible-lint and molecule install a copy of the collection into HOME: each job has a home of its own, and so
        # have pytest's notes of what failed.
        own = LOGS / "home" / job.name
        own.mkdir(parents=True, exist_ok=True)
        argv = (*job.argv, "-o", f"cache_dir={own}") if job.is_file else job.argv
        env = {"ANVIL_BED": bed} | ({} if job.is_file else {"HOME": str(own)})
        return self._run(job.name, (*BED, "run", "--", *argv), env)

    def _run(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> bool:
        log = LOGS / f"{name}.log"
        began = time.monotonic()
        with log.open("w") as out:
            full = {**os.environ, **GO, **(env or {})}
            code = subprocess.run(argv, stdout=out, stderr=subprocess.STDOUT, env=full, cwd=REPO, check=False).returncode
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
    parser.add_argument("--lanes", type=int, default=3, metavar="N")
    parser.add_argument("--exclude", action="append", default=[], metavar="JOB")
    parser.add_argument("jobs", nargs="*", metavar="JOB")
    arguments = parser.parse_args()
    LOGS.mkdir(parents=True, exist_ok=True)
    lanes = Lanes(find_jobs(arguments.jobs, arguments.exclude), arguments.lanes)
    lanes.run()
    known = json.loads(SECONDS.read_text()) if SECONDS.exists() else {}
    SECONDS.write_text(json.dumps({**known, **lanes.seconds}, indent=1, sort_keys=True))
    return report(lanes)


def report(lanes: Lanes) -> int:
    """Print the last lines of the run; returns its exit code."""
    left = [job.name for job in lanes.waiting]
    if lanes.unstable:
        print(f"unstable, passed only when run again alone (first logs: {LOGS}/*.first.log):", file=sys.stderr)
        print("".join(f"  {line}\n" for line in lanes.unstable), end="", file=sys.stderr)
    if len(lanes.unstable) > MOST_UNSTABLE:
        print(f"failed: {len(lanes.unstable)} unstable tests; at most {MOST_UNSTABLE} are accepted", file=sys.stderr)
    if lanes.failed or left:
        print(f"failed: {', '.join(lanes.failed) or 'none'}" + (f"; not run: {', '.join(left)}" if left else ""), file=sys.stderr)
    return int(bool(lanes.failed or left or len(lanes.unstable) > MOST_UNSTABLE))


if __name__ == "__main__":
    sys.exit(main())
