# SPDX-License-Identifier: GPL-3.0-or-later
"""The verbs of a workflow on its host: deploy it, with one test request at the end, stop it, start it, or remove it.

Services are converged by the wing ``serves``. Added here is what only a workflow has: private files, jobs that move between
stores, an order among its services, and replicas that are replaced one at a time.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional

from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves import decisions, verbs
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import GRACE_SECONDS, LOCK_SECONDS, ServeOptions
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_state import ProjectState
from ansible_collections.anvil.serving.plugins.module_utils.workflow import job_migration, private_files
from ansible_collections.anvil.serving.plugins.module_utils.workflow.deployment import (
    Deployment,
    read_deployment,
    read_project_to_remove,
)
from ansible_collections.anvil.serving.plugins.module_utils.workflow.job_migration import Migration

# Rooms that only some runs need are imported where they are used: a module's code is compiled anew in every run.


def carry_out(docker: DockerEngine, params: Mapping[str, Any], check: bool) -> Dict[str, Any]:
    """What anvil_workflow does and returns."""
    if params["state"] != "present":
        from ansible_collections.anvil.serving.plugins.module_utils.workflow import removal, stop_and_start

        project = read_project_to_remove(params["project"])
        stop_and_start.check_name(project)
        if params["state"] == "absent":
            return removal.remove_workflow(docker, project, params["purge"], check)
        if params["state"] == "stopped":
            return stop_and_start.stop_workflow(docker, project, check)
        return stop_and_start.start_workflow(docker, project, float(params["ready_timeout"]), check)
    deployment = read_deployment(params)
    result = deploy_workflow(docker, deployment, check)
    if params["request"] is not None and not check and not result.get("problems"):
        from ansible_collections.anvil.serving.plugins.module_utils.workflow.test_request import verify_workflow

        front = next(service for service in deployment.project.services.values() if service.name in ("edge", "server"))
        # The first of several keys, without the name of its client.
        key = next(iter(deployment.private.get("api_key", "").split("\n"))).split()[-1:]
        result["answer"] = verify_workflow(front, "".join(key), params["request"], params["request_timeout"])
    return result


def deploy_workflow(docker: DockerEngine, deployment: Deployment, check: bool) -> Dict[str, Any]:
    """Bring the workflow to what was rendered. Returns what anvil_serve returns, and ``rolled``: the replaced replicas."""
    servers = deployment.replicas if deployment.edge else ()
    if check:
        return _predict(docker, deployment, job_migration.find_migration(docker, deployment.project, servers))
    with files.hold_lock(deployment.project.directory, LOCK_SECONDS) as lock:
        migration = job_migration.find_migration(docker, deployment.project, servers)
        predicted = _predict(docker, deployment, migration)
        if predicted.get("problems"):
            return predicted
        private_files.update_private_files(deployment)
        if migration is not None:
            predicted["moved"] = _migrate_jobs(docker, deployment, migration, lock)
        rolled = _roll_replicas(docker, deployment, predicted, lock) if deployment.edge else []
        done = verbs.apply_state_locked(docker, deployment.project, ServeOptions(), lock)
        if done["problems"]:
            return _merge_results(predicted, done, rolled)
        if deployment.edge:
            from ansible_collections.anvil.serving.plugins.module_utils.router.edge_reload import reload_edge

            reloaded = bool(reload_edge(docker, deployment.edge, False, 30, 30, False)["changed"])
            predicted["changed"] = reloaded or predicted["changed"]
        for name in predicted["removed"]:
            docker.stop_container(name, GRACE_SECONDS)
            docker.remove_container(name)
        return _merge_results(predicted, done, rolled)


def _roll_replicas(docker: DockerEngine, deployment: Deployment, predicted: Mapping[str, Any], lock: Optional[int]) -> List[str]:
    from ansible_collections.anvil.serving.plugins.module_utils.workflow.replicas import roll_replicas

    actions = {name: serve["action"] for name, serve in predicted["serves"].items()}
    return roll_replicas(docker, deployment, actions, lock)


def _migrate_jobs(docker: DockerEngine, deployment: Deployment, migration: Migration, lock: Optional[int]) -> int:
    """Move the jobs from the old store to the wanted one; returns how many. The workflow answers no request meanwhile."""
    from ansible_collections.anvil.serving.plugins.module_utils.workflow.replicas import converge_services

    job_migration.stop_servers(docker, deployment.project, migration)
    if migration.to_database:
        converge_services(docker, deployment, [job_migration.DATABASE], lock)
    moved = job_migration.move_jobs(docker, deployment.project, migration)
    job_migration.remove_old_store(docker, deployment.project, migration)
    return moved


def _predict(docker: DockerEngine, deployment: Deployment, migration: Optional[Migration]) -> Dict[str, Any]:
    """What a run will do. A private file that will change recreates the containers that mount it."""
    project = deployment.project if migration is None else job_migration.drop_subnets(deployment.project)
    predicted = verbs.apply_state_locked(docker, project, ServeOptions(), None)
    stale, leftover = private_files.list_stale(deployment), private_files.list_leftover(deployment)
    for name in private_files.list_mounting_services(deployment.project, list(stale)):
        serve = predicted["serves"][name]
        if serve["action"] == decisions.NONE:
            serve.update(action=decisions.RECREATE, reasons=["mounted_file"])
    # The whole compose project is ours: services of an earlier deployment that this one lacks (a replica, MLflow) are removed.
    removed = ProjectState(docker, deployment.project).list_orphans()
    predicted["files"] = sorted({*predicted["files"], *stale, *leftover})
    predicted["changed"] = predicted["changed"] or bool(stale or leftover or removed or migration)
    return {**predicted, "rolled": [], "removed": removed, "moved": 0, "warnings": []}


def _merge_results(predicted: Dict[str, Any], done: Dict[str, Any], rolled: List[str]) -> Dict[str, Any]:
    """The final state of every service, with the action that led to it."""
    for name, serve in done["serves"].items():
        first = predicted["serves"][name]
        if serve["action"] == decisions.NONE:
            serve.update({key: first[key] for key in ("action", "reasons", "changes")})
    kept = {key: predicted[key] for key in ("files", "created", "diff", "removed", "moved")}
    return {**done, **kept, "warnings": [], "changed": predicted["changed"] or done["changed"], "rolled": rolled}
