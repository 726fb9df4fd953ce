# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan and render an experiment on the controller: from parameters, or from a compose file. No host is contacted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.anvil.serving.plugins.action.anvil_plan import list_gpus, plan_host
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.service import Service
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan
from ansible_collections.anvil.serving.plugins.modules.anvil_experiment_plan import OPTIONS
from ansible_collections.anvil.serving.plugins.plugin_utils.plan import experiment
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import Project, render_experiment
from ansible_collections.anvil.serving.plugins.plugin_utils.report.outcome import as_failure


def read_wish(options: dict[str, Any]) -> experiment.Wish:
    """What was typed, checked as far as no inventory is needed for it."""
    if bool(options["model"]) == bool(options["compose"]):
        raise fail(
            "an experiment needs a model or a compose file, and not both", where="model", hint="-e model=… or -e compose=…"
        )
    for key in ("vram_mib", "ready_timeout"):
        if options[key] and not (options[key].isdigit() and int(options[key])):
            raise fail(f"{options[key]!r} is no whole number above 0", where=key)
    typed = {key: options[key] for key in ("model", "engine", "image", "served_name", "port", "gpu", "vram_mib", "ready_timeout")}
    return experiment.Wish(
        name=experiment.check_name(options["name"] or experiment.derive_name(options["model"] or options["compose"])),
        extra_args=experiment.split_words(options["extra_args"]),
        environment={key: str(value) for key, value in options["environment"].items()},
        volumes=tuple(options["volumes"]),
        ttl=experiment.parse_ttl(options["ttl"]),
        **typed,
    )


def check_words(task_vars: dict[str, Any]) -> None:
    """Ansible splits ``-e extra_args="--a b"`` at the blank: what follows is another variable, or lost."""
    if "_raw_params" in task_vars or any(name.startswith("-") for name in task_vars):
        raise fail(
            "words of the command line belong to no variable",
            where="extra_args",
            why="ansible splits -e key=value at blanks",
            hint="quote the value once more: -e \"extra_args='--max-model-len 32768'\"",
        )


def check_secrets(services: dict[str, Service], variables: dict[str, Any]) -> list[Problem]:
    known = variables.get("anvil_secrets")
    names = set(known) if isinstance(known, dict) else set()
    return [
        Problem(f"{name} is not the name of a secret in anvil_secrets", f"compose: services.{service.name}.x-anvil.secrets.{key}")
        for service in services.values()
        for key, name in service.anvil.get("secrets", {}).items()
        if name not in names
    ]


class ActionModule(ActionBase):
    """Plan one experiment of a host."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validated, options = self.validate_argument_spec(argument_spec=OPTIONS)
        task_vars = task_vars or {}
        variables = {name: value for name, value in task_vars.items() if name.startswith("anvil_")}
        host = str(task_vars.get("inventory_hostname", "localhost"))
        result["changed"] = False
        try:
            check_words(task_vars)
            wish = read_wish(options)
            base = plan_host(self._templar, host, variables, False)
            project, notes = self._make_project(wish, options["compose"], host, variables, base)
            problems = experiment.clashes(project.services.values(), base) + check_secrets(project.services, variables)
            if problems:
                raise AnvilError(*problems)
            endpoints = [f"http://{bind}:{port}/v1" for one in project.services.values() for bind, port, _target in one.ports]
            result.update(
                name=wish.name,
                project=project.as_dict(),
                gpus=list_gpus(base),
                notes=notes,
                endpoints=endpoints,
                ttl=wish.ttl,
                root=base.root,
            )
        except AnvilError as error:
            result.update(as_failure(error, f"The experiment for {host} cannot be planned; nothing of it was touched."))
        return result

    def _make_project(
        self, wish: experiment.Wish, compose: str | None, host: str, variables: dict[str, Any], base: HostPlan
    ) -> tuple[Project, list[str]]:
        if compose:
            path = Path(self._loader.path_dwim(compose))
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise fail("the compose file cannot be read", where=str(path), why=str(error)) from error
            return experiment.read_compose_file(text, wish, base)
        try:
            plan = plan_host(self._templar, host, {**variables, **experiment.experiment_inventory(wish, base)}, True)
        except AnvilError as error:
            raise AnvilError(*experiment.as_typed(error.problems, wish.name)) from error
        head = f"anvil_serves.{wish.name}"
        own = [note.replace(head, wish.name) for note in plan.notes if note.startswith(head)]
        return render_experiment(plan, wish.name, wish.ttl), own
