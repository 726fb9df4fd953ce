# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task changed, as one line for each thing that changed, with its reason. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Result = Mapping[str, Any]

DONE = {
    "create": "created",
    "recreate": "recreated",
    "start": "started",
    "unpause": "unpaused",
    "restart": "restarted",
    "adopt": "adopted",
    "evict": "taken down",
    "stop": "stopped",
    "remove": "removed",
    "build": "built",
    "tag": "tagged",
}
# After these a serve is up, and a run without --check has waited for it.
BRINGS_UP = ("create", "recreate", "start", "unpause", "restart", "adopt")
# Reasons of anvil_serve that are sentences of their own; any other reason is a field that differs.
CLAUSES = {
    "missing": "its container {was} missing",
    "stopped": "it {was} stopped",
    "paused": "it {was} paused",
    "unhealthy": "it {was} unhealthy",
    "dead": "its container {was} dead",
    "removing": "its container {was} half removed",
    "gpu_lost": "it did not reach its GPU any more",
    "killed": "it {was} killed again and again",
    "restart_loop": "it {was} in a restart loop",
    "requested": "you requested it",
    "foreign_project": "its container {was} part of another project",
    "by_hand": "its container was started by hand",
    "mounted_file": "a mounted file changed",
    "stale_container": "its definition changed",
    "off": "the profile or the deploy mode leaves it out",
    "evicted": "another serve needs its GPU memory",
}
# The state of a serve when it was taken down: the command itself is the reason.
OMITTED_REASONS = ("present", "running", "restarting")
# Steps of a promotion that every promotion has, or that do not matter to an operator.
OMITTED_STEPS = ("validate", "lay out", "pruned")
IMAGE_CLAUSES = {
    "missing": "no image with this content {was} on the host",
    "content": "its content changed",
    "base": "its base changed",
    "tag": "its tag {was} missing",
}
MODEL_CLAUSES = {
    "missing": "it {was} missing",
    "damaged": "files {were} damaged",
    "source": "its source changed",
    "foreign": "a folder without a manifest {was} there",
}


@dataclass(frozen=True)
class Change:
    """One thing that a task changed. subject: its name, for the summary. text: the whole line but for the host."""

    subject: str
    text: str


def describe_changes(module: str, result: Result, task: str, check: bool) -> list[Change]:
    """The changes of a result of one module that reports a change.

    module: its name without the collection's. task: the task's name, which stands for the changes that the result does not name.
    check: nothing was done, so the lines say what would be.
    """
    describe = DESCRIBERS.get(module)
    if describe is not None and "censored" not in result:
        changes = list(describe(result, check))
        if changes:
            return changes
    return [Change(task, f"would change: {task}" if check else f"changed: {task}")]


def describe_changes_of_failure(module: str, result: Result) -> list[Change]:
    """What a module did before it failed, as far as its result proves it: the serves that it waited for."""
    if module not in ("anvil_serve", "anvil_workflow") or not result.get("changed") or "censored" in result:
        return []
    serves = (result.get("serves") or {}).items()
    waited = {name: serve for name, serve in serves if serve.get("ready") is not None and serve["action"] in BRINGS_UP}
    return [_describe_serve(name, serve, False) for name, serve in waited.items()]


def done(action: str, check: bool) -> str:
    """``recreated``, or ``would be recreated``."""
    word = DONE.get(action, action)
    return f"would be {word}" if check else word


def give_reasons(reasons: list[str], clauses: Mapping[str, str], check: bool) -> str:
    """``, because command, image differ and it was unhealthy``; nothing where there is no reason to show."""
    verbs = {"was": "is", "were": "are"} if check else {"was": "was", "were": "were"}
    fields = [reason.replace("_", " ") for reason in reasons if reason not in clauses and reason not in OMITTED_REASONS]
    parts = [clauses[reason].format(**verbs) for reason in reasons if reason in clauses]
    if fields:
        parts.insert(0, ", ".join(fields) + (" differs" if len(fields) == 1 else " differ"))
    return ", because " + " and ".join(parts) if parts else ""


def _describe_serve(name: str, serve: Result, check: bool) -> Change:
    action, end = serve["action"], ""
    if not check and action in BRINGS_UP:
        seconds = serve.get("seconds") or 0
        if serve.get("ready"):
            end = f"; ready after {seconds:.0f} s" if seconds >= 1 else "; ready"
        elif serve.get("ready") is False:
            end = f"; not ready: {serve['state'].replace('_', ' ')}"
    return Change(name, f"{name}: {done(action, check)}{give_reasons(serve.get('reasons') or [], CLAUSES, check)}{end}")


def _describe_serves(result: Result, check: bool) -> Iterator[Change]:
    serves = {**(result.get("serves") or {}), **(result.get("containers") or {})}
    evictions = {eviction["serve"]: eviction["for"] for eviction in result.get("evictions") or [] if eviction["for"]}
    for image in result.get("pulled") or []:
        why = "it is missing on the host" if check else "it was missing on the host"
        yield Change(f"image {image}", f"image {image}: {done('pulled', check)}, because {why}")
    for name in result.get("created") or []:
        yield Change(name, f"{name}: {done('create', check)}")
    for name, guest in evictions.items():
        yield Change(name, f"{name}: {done('evict', check)}, to make room for {guest}")
    for name, serve in serves.items():
        if serve.get("action", "none") != "none" and name not in evictions:
            yield _describe_serve(name, serve, check)


def _describe_project(result: Result, check: bool) -> Iterator[Change]:
    """Serves and experiments that were retired; where none of them changed, the files that did."""
    changes = [*_describe_experiments(result, check), *_describe_serves(result, check)]
    yield from changes
    if not changes:
        for path in result.get("files") or []:
            yield Change(path, f"{path}: {'would change' if check else 'changed'}")


def _describe_workflow(result: Result, check: bool) -> Iterator[Change]:
    gone = result.get("removed") or []
    for name in gone:
        yield Change(name, f"{name}: {done('remove', check)}")
    if result.get("moved"):
        yield Change("jobs", f"jobs: {result['moved']} moved to the new job store")
    if gone:
        yield from _describe_serves(result, check)
    else:
        yield from _describe_project(result, check)


def _describe_experiments(result: Result, check: bool) -> Iterator[Change]:
    asked = ((result.get("invocation") or {}).get("module_args") or {}).get("name")
    for one in result.get("retired") or []:
        reason = "" if asked else ", because its time to live " + ("is over" if check else "was over")
        yield Change(one["name"], f"experiment {one['name']}: {done('remove', check)}{reason}")


def _describe_promotion(subject: str) -> Callable[[Result, bool], Iterator[Change]]:
    def describe(result: Result, check: bool) -> Iterator[Change]:
        steps = [step for step in result.get("actions") or [] if not step.startswith(OMITTED_STEPS)]
        if steps:
            yield Change(subject, f"{subject}: {'would ' if check else ''}{', '.join(steps)}")

    return describe


def _describe_edge(result: Result, check: bool) -> Iterator[Change]:
    if result.get("actions"):
        yield from _describe_promotion("edge configuration")(result, check)
    elif not result.get("reloaded"):
        yield Change("edge", f"edge: {done('reloaded', check)}")


def _describe_router(result: Result, check: bool) -> Iterator[Change]:
    yield from _describe_project(result, check)
    for name in result.get("removed") or []:
        yield Change(name, f"{name}: {done('remove', check)}, because the inventory has no such container any more")


def _describe_restart(result: Result, check: bool) -> Iterator[Change]:
    for name, seconds in (result.get("seconds") or {}).items():
        yield Change(name, f"{name}: restarted in {seconds:.0f} s")


def _describe_image(result: Result, check: bool) -> Iterator[Change]:
    name, action = result.get("reference") or "", result.get("action", "none")
    if name and action != "none":
        reasons = give_reasons(result["reasons"], IMAGE_CLAUSES, check) + ("; pushed" if result.get("pushed") else "")
        yield Change(f"image {name}", f"image {name}: {done(action, check)}{reasons}")
    elif name:
        yield Change(f"image {name}", f"image {name}: {done('pushed', check)}")


def _describe_model(result: Result, check: bool) -> Iterator[Change]:
    name, fetch = result.get("name") or "", result.get("fetch") or {}
    if not name:
        return
    if ((result.get("invocation") or {}).get("module_args") or {}).get("state") == "absent":
        yield Change(f"model {name}", f"model {name}: {done('remove', check)}")
        return
    size = f" ({fetch['bytes'] / (1 << 30):.1f} GiB)" if fetch.get("bytes", 0) >= 1 << 27 else ""
    reasons = give_reasons(result.get("reasons") or [], MODEL_CLAUSES, check)
    yield Change(f"model {name}", f"model {name}: {done('fetched', check)}{size}{reasons}")


def _describe_daemon(result: Result, check: bool) -> Iterator[Change]:
    if check:
        yield Change("daemon.json", "daemon.json: the Docker Engine would be restarted with the new settings")
    else:
        yield Change("daemon.json", "daemon.json: the Docker Engine was restarted with the new settings")


def _describe_inventory(result: Result, check: bool) -> Iterator[Change]:
    for path in result.get("files") or []:
        yield Change(path.rpartition("/")[2], f"{path}: {'would be written' if check else 'written'}")


DESCRIBERS: dict[str, Callable[[Result, bool], Iterator[Change]]] = {
    "anvil_serve": _describe_project,
    "anvil_workflow": _describe_workflow,
    "anvil_experiment": _describe_experiments,
    "anvil_router_promote": _describe_promotion("router configuration"),
    "anvil_router_edge": _describe_edge,
    "anvil_router_restart": _describe_restart,
    "anvil_router_up": _describe_router,
    "anvil_image": _describe_image,
    "anvil_model": _describe_model,
    "anvil_docker_daemon": _describe_daemon,
    "anvil_inventory": _describe_inventory,
    "anvil_add": _describe_inventory,
}
