# SPDX-License-Identifier: GPL-3.0-or-later
"""The verbs of a serve, over a whole project: read the Docker Engine once, decide, admit, converge, wait until ready."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.core.secret_masking import mask_problem
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Service
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves import decisions
from ansible_collections.anvil.serving.plugins.module_utils.serves.decisions import (
    RESTS_EVICTED,
    RESTS_OFF,
    RESTS_ON_DEMAND,
    Decision,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import (
    LOCK_SECONDS,
    Outcome,
    Project,
    ServeOptions,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_decisions import (
    decide_project,
    list_described,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_files import (
    list_adoption_notes,
    list_leftover_files,
    list_project_files,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_readiness import await_ready
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_state import ProjectState
from ansible_collections.anvil.serving.plugins.module_utils.serves.result import EMPTY_REPORT, build_diff, build_result
from ansible_collections.anvil.serving.plugins.module_utils.serves.serve_revision_files import compose_path

CREATING = (decisions.CREATE, decisions.RECREATE, decisions.ADOPT)

# Python compiles every imported room anew in each run of a module (bench/serve_noop). So a room that only a run with changes
# needs is imported inside the function that needs it.


def apply_state(docker: DockerEngine, project: Project, options: ServeOptions, check: bool) -> Dict[str, Any]:
    """Bring the chosen serves of a project to the state of the options; returns what anvil_serve returns."""
    try:
        if check:
            result = apply_state_locked(docker, project, options, None)
        else:
            with files.hold_lock(project.directory, LOCK_SECONDS) as lock:
                result = apply_state_locked(docker, project, options, lock)
    except AnvilError as exc:
        raise AnvilError(*(mask_problem(problem, project.secrets.values()) for problem in exc.problems)) from exc
    result["problems"] = [mask_problem(problem, project.secrets.values()) for problem in result.get("problems") or ()]
    return result


def apply_state_locked(docker: DockerEngine, project: Project, options: ServeOptions, lock: Optional[int]) -> Dict[str, Any]:
    """As ``apply_state``, for a caller that holds the project's lock over several steps.

    lock: the descriptor of the lock; None in check mode.
    """
    if options.state in ("down", "absent"):
        from ansible_collections.anvil.serving.plugins.module_utils.serves import retirement

        verb = retirement.take_down if options.state == "down" else retirement.remove_containers
        return verb(docker, project, options, lock is None)
    if options.state == "rolled_back":
        from ansible_collections.anvil.serving.plugins.module_utils.serves import operator_rollback

        def carry_out(changed: Project, begin: Callable[[Sequence[str]], None]) -> Dict[str, Any]:
            return _carry_out(_read_and_decide(docker, changed, options, list_described(changed)), lock, begin)

        return operator_rollback.roll_back(docker, project, options, carry_out, lock is None)
    return _converge(docker, project, options, lock)


@dataclass
class _Run:
    """The state of a project, the decisions that follow from it, and the other return keys (``report``).

    notes: what the engines said about command lines, where that is no refusal.
    """

    state: ProjectState
    options: ServeOptions
    services: List[Service]
    outcomes: Dict[str, Outcome]
    report: Dict[str, Any]
    notes: List[str] = field(default_factory=list)

    def has_changes(self) -> bool:
        return any(outcome.decision.action != decisions.NONE for outcome in self.outcomes.values())

    def starting(self) -> List[Service]:
        resting = (decisions.NONE, decisions.EVICT)
        return [service for service in self.services if self.outcomes[service.name].decision.action not in resting]

    def without_image(self) -> List[Service]:
        """Services that docker compose has to create or start, and whose image is not on this host."""
        return [
            service
            for service in self.starting()
            if self.outcomes[service.name].decision.action not in (decisions.UNPAUSE, decisions.RESTART)
            and self.state.read_image(service.image) is None
        ]

    def admit(self) -> bool:
        """Check whether the serves may start. False: at least one is refused, and its outcome says why."""
        if self.has_changes():
            from ansible_collections.anvil.serving.plugins.module_utils.serves.admission_on_host import admit_serves

            evictions, notes = admit_serves(self.state, self.services, self.outcomes, self.options)
            self.report["warnings"] = self.report["warnings"] + notes
            self.report["evictions"] = evictions + self._list_left_out()
        return not any(outcome.problems for outcome in self.outcomes.values())

    def accept(self, check: bool) -> bool:
        """Admit the serves, and let the engine of each new command line judge it. False: an outcome says why not.

        In check mode the engines are asked only if the operator requests that.
        """
        foreign, told = self._check_images()
        asked, notes = self._find_questions()
        notes = told + notes
        if not check and not asked and not foreign:
            self.notes = notes
            return True  # the caller admits under the host's lock
        admitted = self.admit()
        refused = False
        starting = [service.name for service in self.starting()]
        asked = [one for one in asked if one.service.name in starting]
        if asked and (not check or self.options.engine_check == "always"):
            from ansible_collections.anvil.serving.plugins.module_utils.serves import engine_checks

            refused, more = engine_checks.ask_engines(self.state, asked, self.outcomes, not check)
            notes = notes + more
        self.notes = notes
        return admitted and not refused and not foreign

    def _check_images(self) -> Tuple[bool, List[str]]:
        """Whether an image of this host, with which a serve is about to start, is certainly for another processor; and notes."""
        creating = [each for each in self.starting() if self.outcomes[each.name].decision.action in CREATING]
        if not creating or self.options.compatibility == "off":
            return False, []
        from ansible_collections.anvil.serving.plugins.module_utils.serves import platform_checks

        before = self._count_problems()
        notes = platform_checks.check_images(self.state, creating, self.outcomes, self.options.compatibility)
        return self._count_problems() > before, notes

    def refuse_pulls(self, lacking: Sequence[Service]) -> List[str]:
        """Put a refusal into the outcome of each serve whose image its registry does not have for this host; returns notes."""
        if not lacking or self.options.compatibility == "off":
            return []
        from ansible_collections.anvil.serving.plugins.module_utils.serves import platform_checks

        return platform_checks.check_offers(self.state, lacking, self.outcomes, self.options.compatibility)

    def _count_problems(self) -> int:
        return sum(len(outcome.problems) for outcome in self.outcomes.values())

    def _find_questions(self) -> Tuple[List[Any], List[str]]:
        if self.options.engine_check == "off" or not self.starting():
            return [], []
        from ansible_collections.anvil.serving.plugins.module_utils.serves import engine_checks

        return engine_checks.find_questions(self.state, self.starting(), self.outcomes)

    def _list_left_out(self) -> List[Dict[str, Any]]:
        """Serves that are taken down because the profile or the deploy mode leaves them out, in the form of evictions."""
        services = self.state.project.services
        return [
            {"serve": name, "container": services[name].container, "for": "", "gpu_uuids": list(services[name].gpu_uuids)}
            for name, outcome in self.outcomes.items()
            if outcome.decision == Decision(decisions.EVICT, (RESTS_OFF,))
        ]

    def result(self, changed: bool = False, diff: Optional[List[Dict[str, str]]] = None) -> Dict[str, Any]:
        notes = [note for outcome in self.outcomes.values() for note in outcome.notes]
        report = {**self.report, "warnings": self.report["warnings"] + self.notes + notes}
        return build_result(self.outcomes, self.state.project, changed, diff or [], report)


def _read_and_decide(docker: DockerEngine, project: Project, options: ServeOptions, services: List[Service]) -> _Run:
    state = ProjectState(docker, project)
    outcomes = decide_project(state, options, services)
    leaving = [entry["Names"][0].lstrip("/") for entry in state.list_superseded(services)]
    warnings = [
        "container {0} of project {1} is not in the inventory any more{2}".format(
            name, project.name, "; it is removed, because a serve needs its port" if name in leaving else ""
        )
        for name in state.list_orphans()
    ]
    return _Run(state, options, services, outcomes, {**EMPTY_REPORT, "warnings": warnings})


def _converge(docker: DockerEngine, project: Project, options: ServeOptions, lock: Optional[int]) -> Dict[str, Any]:
    """Change only the serves that differ (or that the options name), and wait until every serve is ready.

    The host's lock is held from admission to start, so that no other project takes the GPU, the port or the name in between.
    It is not held while an image is pulled or a model loads: other projects can converge meanwhile.
    """
    notes, recovered = _recover_adoptions(docker, project, options, lock)
    if options.keep_revisions:
        from ansible_collections.anvil.serving.plugins.module_utils.serves.revision_pins import follow_pins

        project, told = follow_pins(docker, project, options.again)
        notes = [*notes, *told]
    run = _read_and_decide(docker, project, options, list_described(project))
    try:
        result = _carry_out(run, lock)
    except AnvilError as exc:
        raise AnvilError(*exc.problems, *_undo_adoptions(docker, project, lock)) from exc
    undone = [problem for problem in _undo_adoptions(docker, project, lock) if problem not in result["problems"]]
    result["problems"] = [*_report_rejected(project), *result["problems"], *undone]
    return {**result, "changed": result["changed"] or recovered, "warnings": [*notes, *result["warnings"]]}


def _report_rejected(project: Project) -> List[Problem]:
    if not project.pinned:
        return []
    from ansible_collections.anvil.serving.plugins.module_utils.serves.revision_pins import report_rejected

    return report_rejected(project)


def _recover_adoptions(
    docker: DockerEngine, project: Project, options: ServeOptions, lock: Optional[int]
) -> Tuple[List[str], bool]:
    """What runs that were killed in an adoption left behind; returns warnings, and whether anything was changed."""
    if not list_adoption_notes(project):
        return [], False
    from ansible_collections.anvil.serving.plugins.module_utils.serves import adoption

    return adoption.recover(docker, project, options.state == "adopted", lock is None)


def _undo_adoptions(docker: DockerEngine, project: Project, lock: Optional[int]) -> List[Problem]:
    """Put back the containers whose adoption did not end, whatever stopped this run."""
    if lock is None or not list_adoption_notes(project):
        return []
    from ansible_collections.anvil.serving.plugins.module_utils.serves import adoption

    return adoption.put_back_all(docker, project)


def _carry_out(run: _Run, lock: Optional[int], begin: Optional[Callable[[Sequence[str]], None]] = None) -> Dict[str, Any]:
    """Admit, apply and wait until ready. begin: called with the names of the serves when they are admitted, before any change."""
    docker, project, options = run.state.docker, run.state.project, run.options
    lacking = run.without_image()
    told = run.refuse_pulls(lacking)
    pulled = sorted({service.image for service in lacking})
    if options.hold and run.has_changes():
        allowed = run.accept(check=False) and run.admit()
        run.notes = told + run.notes
        result = run.result()  # the warnings come again when the host has its turn
        return {**result, "held": allowed, "warnings": [] if allowed else result["warnings"]}
    if lock is None or not run.has_changes():
        accepted = run.accept(check=True)
        run.notes = told + run.notes
        if not accepted:
            return run.result()
        run.report["pulled"] = pulled
        if begin is not None and lock is not None:
            begin([service.name for service in run.services])
        changes = _apply(run, None if lock is None else (lock,))
        return run.result(*changes) if lock is None else _finish(run, lock, *changes)
    failed: Dict[str, Outcome] = {}
    if lacking:
        from ansible_collections.anvil.serving.plugins.module_utils.serves import converge

        if not run.admit():
            run.notes = told
            return run.result()
        failed = converge.pull_images(docker, lacking, run.outcomes)
        run = _read_and_decide(docker, project, options, [service for service in run.services if service.name not in failed])
    # Not under the host's lock: an engine may take a minute to import.
    if not run.accept(check=False):
        run.outcomes.update(failed)
        run.notes = told + run.notes
        run.report["pulled"] = [image for image in pulled if run.state.read_image(image) is not None]
        return run.result(bool(run.report["pulled"]), [])
    notes = told + run.notes
    with docker.lock_host() as held:
        run = _read_and_decide(docker, project, options, [service for service in run.services if service.name not in failed])
        run.notes = notes
        run.report["pulled"] = [image for image in pulled if run.state.read_image(image) is not None]
        admitted = run.admit()
        if begin is not None and admitted:
            begin([service.name for service in run.services])
        changes = _apply(run, (lock, held)) if admitted else (bool(run.report["pulled"]), [])
    run.outcomes.update(failed)
    return _finish(run, lock, *changes) if admitted else run.result(*changes)


def _apply(run: _Run, locks: Optional[Tuple[int, ...]]) -> Tuple[bool, List[Dict[str, str]]]:
    """Write the files and carry out the decisions; returns whether anything changed, and the diff.

    locks: descriptors that docker compose inherits. None: check mode, nothing is changed.
    """
    project, docker, starting = run.state.project, run.state.docker, run.starting()
    stale = {path: want for path, want in list_project_files(project).items() if files.differs(path, *want)}
    leftovers = list_leftover_files(project)
    diff = build_diff(project, run.outcomes)
    run.report["files"] = sorted([*stale, *leftovers])
    if starting:
        from ansible_collections.anvil.serving.plugins.module_utils.serves.project_resources import ensure_networks_and_volumes

        run.report["created"] = ensure_networks_and_volumes(docker, starting, tuple(project.services.values()), locks is None)
    changed = bool(starting or any(run.report[key] for key in ("evictions", "files", "created", "pulled")))
    if locks is None:
        return changed, diff
    for path, (content, mode) in stale.items():
        files.write_file(path, content, mode)
    for path in leftovers:
        files.remove_file(path)
    for entry in run.state.list_superseded(starting):
        docker.stop_container(entry["Id"])
        docker.remove_container(entry["Id"])
    if starting or run.report["evictions"]:
        from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_cli import Compose
        from ansible_collections.anvil.serving.plugins.module_utils.serves import converge

        own_files = {name: compose_path(project.directory, name) for name in project.pinned}
        compose = Compose(project.name, project.directory, docker.docker_host, locks=locks, own_files=own_files)
        notes = converge.apply_decisions(run.state, compose, starting, run.outcomes, run.options)
        run.report["warnings"] = run.report["warnings"] + notes
        run.report["commands"] = [list(argv) for argv in compose.commands]
    return changed, diff


def _finish(run: _Run, lock: int, changed: bool, diff: List[Dict[str, str]]) -> Dict[str, Any]:
    """Wait until every serve that should run is ready, and verify the serves that were started."""
    started, project = run.starting(), run.state.project
    waiting = [service for service in run.services if not _rests(run.outcomes[service.name])]
    await_ready(run.state.docker, project, waiting, run.outcomes)
    unproven: List[Service] = []
    if project.history is not None:
        from ansible_collections.anvil.serving.plugins.module_utils.serves import revision_pins

        unproven = revision_pins.list_unproven(run.state, [one for one in run.services if not _waits(run.outcomes[one.name])])
    # Also a change that a run before this one started: it was killed before it could judge.
    replacing = [one for one in unproven if revision_pins.has_way_back(project, one, run.outcomes[one.name])]
    verified = started + [service for service in replacing if service not in started]
    if verified:
        from ansible_collections.anvil.serving.plugins.module_utils.serves.start_verification import verify_serves

        verify_serves(run.state, verified, run.outcomes, run.options, {service.name for service in replacing})
    if unproven:
        _keep_revisions(run, unproven, lock)
    return run.result(changed, diff)


def _keep_revisions(run: _Run, unproven: List[Service], lock: int) -> None:
    """Record the definitions that are ready, and take those that are not back to the last revision that was."""
    from ansible_collections.anvil.serving.plugins.module_utils.serves import failed_changes

    docker, inner = run.state.docker, replace(run.options, state="up", engine_check="off", compatibility="off")

    def carry_out(project: Project, begin: Callable[[Sequence[str]], None]) -> Dict[str, Any]:
        return _carry_out(_read_and_decide(docker, project, inner, list_described(project)), lock, begin)

    notes = failed_changes.record_ready(run.state, unproven, run.outcomes)
    notes += failed_changes.take_back(run.state, unproven, run.outcomes, run.options, carry_out)
    run.report["warnings"] = run.report["warnings"] + notes


def _waits(outcome: Outcome) -> bool:
    """The serve should not run now."""
    return outcome.decision.reasons in ((RESTS_ON_DEMAND,), (RESTS_EVICTED,))


def _rests(outcome: Outcome) -> bool:
    """There is nothing to wait for: the serve should not run now, or it could not be started."""
    return outcome.ready is False or _waits(outcome)
