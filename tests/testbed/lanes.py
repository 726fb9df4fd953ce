"""Run every test of the project as parallel jobs on lanes; each lane has a Docker Engine of its own.

    lanes.py [--lanes N] [--exclude JOB] [JOB...]

A job is a Makefile target that needs no Docker Engine (lint, unit, sanity, docs), one file of tests/integration or one molecule
scenario. The Makefile targets run one after the other on the last lane, before its Docker Engine starts. A free lane takes the
longest waiting job (by the seconds of the last run, or of the table below), so that all lanes end at about the same time. The
output of a job goes to .cache/lanes/JOB.log, and to the screen if the job fails. Three lanes suit two cores, because the tests
spend a good part of their time waiting.

A job that failed on a lane runs once more at the end, alone; of a file only the tests that failed. A test that passes then is
unstable, which is a bug of the test or of the product: the last lines name each one with its first error, and its first log is
kept. More than MOST_UNSTABLE of them fail the run.
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
CHECKS = ("lint", "unit", "unit-slow", "sanity", "docs")
MOST_UNSTABLE = 2
# pytest's line for a test that failed: `FAILED path::test - error`.
FAILED_TEST = re.compile(r"^(?:FAILED|ERROR) \S*?([\w.\[\]/-]+::.*)$", re.MULTILINE)
FIRST_BED = "testbed"  # `make integration` uses the same bed
# Seconds of the longest jobs; they order jobs that have not run on this machine.
LONG = {
    "test_workflow": 410, "test_promote_faults": 390, "test_workflow_replicas": 290, "test_promote": 250, "test_replicas": 240,
    "test_promote_replicas": 230, "test_serve": 180, "site": 180, "test_router_playbooks": 150, "test_workflow_server": 150,
    "test_serve_faults": 140, "test_fleet": 130, "host": 130, "test_progress": 120, "test_serve_kills": 110, "test_site": 100,
    "test_serve_verbs": 100, "test_llama_stack": 100, "test_workflow_faults": 90, "test_upload": 90,
    "test_workflow_artifacts": 90, "test_llama_sources": 90, "test_docker_host": 90, "test_image": 75, "test_experiment": 70,
}  # fmt: skip
# These jobs build the same images from the same wheels, so all of them run on the first lane and the images are built once.
TOGETHER = ("test_workflow", "test_workflow_artifacts", "test_workflow_page", "test_workflow_replicas")


@dataclass(frozen=True)
class Job:
    """A unit of work for one lane. guess: expected seconds, used only to order jobs."""

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
    """Return the failed tests in a job's log, each with its error; if the log names no test, the job with its last line."""
    lines = log.rstrip().splitlines() or ["no output"]
    return FAILED_TEST.findall(log) or [f"{name} - {lines[-1].strip(' =')}"]


def find_jobs(only: Sequence[str], excluded: Sequence[str]) -> list[Job]:
    """Return the named jobs (all, if none is named) without the excluded ones, longest first."""
    known = {**LONG, **(json.loads(SECONDS.read_text()) if SECONDS.exists() else {})}
    jobs = [Job(name, ("make", "--no-print-directory", name), 0) for name in CHECKS]
    for path in sorted(REPO.glob("extensions/molecule/*/molecule.yml")):
        name = path.parent.name
        jobs.append(Job(name, ("molecule", "test", "--scenario-name", name), known.get(name, 60)))
    for path in sorted(REPO.glob("tests/integration/*/test_*.py")):
        jobs.append(Job(path.stem, ("pytest", str(path)), known.get(path.stem, 60)))
    unknown = {*only, *excluded} - {job.name for job in jobs}
    if unknown:
        names = ", ".join(job.name for job in jobs)
        raise SystemExit(f"lanes.py: no such job: {', '.join(sorted(unknown))}; known jobs: {names}")
    chosen = [job for job in jobs if job.name not in excluded and (not only or job.name in only)]
    return sorted(chosen, key=lambda job: -job.guess)


class Lanes:
    """The waiting jobs, and the results of those that ran."""

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
        """Run all jobs, run those that failed once more, stop the beds."""
        with ThreadPoolExecutor(max(1, len(self.beds))) as pool:
            running = [*(pool.submit(self.run_lane, bed) for bed in self.beds[:-1]), pool.submit(self.run_checks, self.beds[-1:])]
        for one in running:
            one.result()
        self.run_again([job for job in self.on_lanes if job.name in self.failed])
        for bed in self.beds:
            self._run(f"{bed}-down", (*BED, "down"), {"ANVIL_BED": bed})

    def run_checks(self, beds: Sequence[str]) -> None:
        """Run the jobs that need no Docker Engine, one after the other; then run the lane of the bed, if there is one."""
        for job in self.checks:
            self._run(job.name, job.argv)
        for bed in beds:
            self.run_lane(bed)

    def run_lane(self, bed: str) -> None:
        """Start the lane's bed and run jobs on it until none is left."""
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
        """Run failed jobs once more, alone; of a file only the tests that failed."""
        for job in jobs:
            log = LOGS / f"{job.name}.log"
            first = log.replace(log.with_suffix(".first.log"))
            self.failed.remove(job.name)
            last_failed = ("--last-failed",) if job.is_file else ()
            if self._run_job(replace(job, argv=(*job.argv, *last_failed)), FIRST_BED):
                self.unstable += failures(first.read_text(errors="replace"), job.name)

    def _bring_up(self, bed: str) -> bool:
        """Start a bed. The first lane makes the images, copies them to the others and downloads the wheels; the others wait for
        the images."""
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
        # ansible-lint and molecule install a copy of the collection into HOME, so each job has a home of its own. The same folder
        # holds pytest's cache of failed tests.
        own = LOGS / "home" / job.name
        own.mkdir(parents=True, exist_ok=True)
        argv = (*job.argv, "-o", f"cache_dir={own}") if job.is_file else job.argv
        env = {"ANVIL_BED": bed} | ({} if job.is_file else {"HOME": str(own)})
        return self._run(job.name, (*BED, "run", "--", *argv), env)

    def _run(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> bool:
        log = LOGS / f"{name}.log"
        began = time.monotonic()
        with log.open("w") as out:
            full = {**os.environ, **GO, "COLUMNS": "200", **(env or {})}  # so that pytest does not cut errors off
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
    """The command line: 0 if every job ran and passed."""
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
    """Print the last lines of the run and return its exit code."""
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
