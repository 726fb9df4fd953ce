# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Propose a serve for a model, and write the file of a proposal. No host is contacted."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_recipes import GGUF, REPOSITORY, TEMPLATE, Recipe
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import NAME, NAME_RULE, suggest_name
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_description import read_described_facts
from ansible_collections.anvil.serving.plugins.modules.anvil_add import OPTIONS
from ansible_collections.anvil.serving.plugins.plugin_utils.plan import added_serve, inventory_folder
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.model_candidates import (
    Weights,
    Wish,
    imply_recipe,
    use_local_weights,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.proposed_serves import Fleet, check_folder, read_fleet
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.recipe_files import find_recipe, load_named_recipe
from ansible_collections.anvil.serving.plugins.plugin_utils.report.action_result import failure_result
from ansible_collections.anvil.serving.plugins.plugin_utils.report.first_steps import name_command
from ansible_collections.anvil.serving.plugins.plugin_utils.report.typed_command import read_typed


def read_wish(options: Mapping[str, Any]) -> Wish:
    """What was asked for by option. gpus is a number of cards, or their names."""
    gpus = str(options["gpus"] or "").replace(" ", "")
    number, aliases = (int(gpus), ()) if gpus.isdigit() else (None, tuple(word for word in gpus.split(",") if word))
    if options["context"] is not None and options["context"] < 1:
        raise fail("the context must be at least 1 token", "context", hint="-e context=32768")
    return Wish(options["engine"] or "", options["variant"] or "", options["context"], number, aliases, options["speculative"])


def check_request(options: Mapping[str, Any]) -> None:
    model = options["model"] or ""
    if TEMPLATE.search(model) or not (REPOSITORY.fullmatch(model) or (model.startswith("/") and "\n" not in model)):
        raise fail(
            "this is neither a repository nor a path on the host",
            "model",
            repr(model),
            "-e model=openai/gpt-oss-20b, or -e model=/srv/models/model.gguf",
        )
    if options["name"] and not NAME.fullmatch(options["name"]):
        raise fail("not a name of a serve", "name", repr(options["name"]), NAME_RULE)


def write_proposal(files: Mapping[str, str], check: bool) -> dict[str, Any]:
    """Write files that do not exist. One that has other content is never touched."""
    changed, folders = [], []
    for path, text in files.items():
        place = Path(path)
        folder = place.parents[2]
        folders.append(inventory_folder.show_path(folder))
        if not place.exists():
            changed.append(path)
            if not check:
                check_folder(folder, [str(place.relative_to(folder))])
                inventory_folder.write_new(place, text, 0o644)
        elif place.read_text(encoding="utf-8") != text:
            raise fail("the file exists with other content", path, hint="remove it first, or choose another name: -e name=")
    typed = read_typed(sys.argv, shutil.which, os.getcwd())
    return {
        "changed": bool(changed),
        "files": [inventory_folder.show_path(Path(path)) for path in changed],
        "next": [name_command(typed, "site", folder, os.path.exists) for folder in dict.fromkeys(folders)],
    }


def find_own_recipe(options: Mapping[str, Any], names: Sequence[str] = ()) -> Recipe | None:
    """The recipe that was named, else that of the model."""
    folder = options["recipes"] or ""
    return load_named_recipe(options["recipe"], folder) if options["recipe"] else find_recipe(options["model"], folder, names)


def list_repositories(options: Mapping[str, Any]) -> list[str]:
    """The repositories whose headers say how much memory the model needs, the preferred one first."""
    model, wish = options["model"], read_wish(options)
    if model.startswith("/") or not options["inspect"]:
        return []
    recipe = find_own_recipe(options)
    if recipe is None:
        return [model]
    usable = [(name, one.repo) for name, one in recipe.variants.items() if one.format != GGUF]
    asked = [repo for name, repo in usable if wish.variant == name or (not wish.variant and repo == model != recipe.model)]
    return list(dict.fromkeys(asked or [repo for _name, repo in usable]))


def read_header(options: Mapping[str, Any], repo: str) -> Weights:
    """What anvil_model_info said of a repository. The results end at the first that could not be read."""
    if not options["inspect"]:
        return Weights(why="inspect=false")
    why = "the hub was not asked"
    for answer in options["headers"]:
        if not answer.get("models"):
            why = (str(answer.get("msg") or "the host gave no answer").strip().splitlines() or [""])[0]
        elif answer.get("item") == repo:
            return Weights(read_described_facts(answer["models"][0]), str(answer.get("commit") or ""))
    return Weights(why=why)


class ActionModule(ActionBase):
    """Propose a serve, or write the one that was proposed."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validated, options = self.validate_argument_spec(argument_spec=OPTIONS)
        result["changed"] = False
        try:
            if options["write"]:
                result.update(write_proposal(options["write"], bool(self._task.check_mode)))
            elif options["list_repositories"]:
                check_request(options)
                result["repositories"] = list_repositories(options)
            else:
                check_request(options)
                result.update(self._propose(options, task_vars or {}))
        except AnvilError as error:
            result.update(failure_result(error, "Nothing was written."))
        return result

    def _propose(self, options: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        hosts = options["hosts"] or list(task_vars.get("ansible_play_hosts_all") or ())
        variables = {host: task_vars["hostvars"].raw_get(host) for host in hosts}
        looks = dict(zip(hosts, options["looks"], strict=True)) if options["looks"] else {}
        fleet = read_fleet(self._loader, variables, looks)
        model, wish = options["model"], read_wish(options)
        request = added_serve.Request(
            model,
            options["name"] or added_serve.choose_name(model),
            model if model.startswith("/") else "",
            options["image"] or "",
            options["port"],
            wish,
        )
        known = self._find_known(fleet, request)
        if known:
            return {"fits": True, "proposed": {}, "lines": [known]}
        self._check_wish(fleet, wish)
        read = self._read_local if request.path else self._read_repository
        recipe, weights, request = read(options, fleet, request, task_vars)
        held = {host: [int(port) for port in look.get("held_ports") or {}] for host, look in looks.items()}
        port = request.port or added_serve.choose_port(fleet, held)
        outcome = added_serve.find_fittings(self._loader, fleet, recipe, request, weights, port)
        wider = [] if outcome.chosen else added_serve.find_wider(self._loader, fleet, recipe, request, weights, port)
        file, files = None, {}
        if outcome.chosen:
            path, text = added_serve.lay_out_file(request, recipe, outcome.chosen)
            folder = self._find_folder(options, variables[outcome.chosen.placement.host])
            check_folder(folder, [path])
            files = {str(folder / path): text}
            file = (inventory_folder.show_path(folder / path), text)
        return {
            "fits": outcome.chosen is not None,
            "proposed": files,
            "lines": added_serve.describe_outcome(request, outcome, wider, weights, fleet, file),
        }

    @staticmethod
    def _check_wish(fleet: Fleet, wish: Wish) -> None:
        known = sorted({alias for room in fleet.rooms.values() for alias in room.plan.gpus})
        for alias in wish.aliases:
            if alias not in known:
                raise fail("no host has a card of this name", alias, hint=suggest_name(alias, known, "anvil_gpus is empty"))
        if wish.engine and wish.engine not in added_serve.IMAGES:
            hint = suggest_name(wish.engine, sorted(added_serve.IMAGES))
            raise fail("no serve is proposed for this engine", wish.engine, hint=hint)

    @staticmethod
    def _find_known(fleet: Fleet, request: added_serve.Request) -> str:
        """What is said of a serve that is there already. Raises AnvilError if it serves another model."""
        for host, serves in fleet.serves.items():
            keys = serves.get(request.name)
            if keys is not None:
                if os.path.basename(str(keys.get("model"))) == os.path.basename(request.model):
                    return f"{host} has the serve {request.name} already, with the model {keys.get('model')}: nothing to do"
                raise fail(
                    f"{host} has a serve of this name with another model", f"serve {request.name}", str(keys.get("model")),
                    "choose another name: -e name=fast",
                )  # fmt: skip
        return ""

    @staticmethod
    def _find_folder(options: Mapping[str, Any], variables: Mapping[str, Any]) -> Path:
        folder = options["output"] or variables.get("inventory_dir")
        if not folder:
            raise fail("the inventory is no folder", "-i", hint="give the folder of the inventory: -e output=inventory/my-host")
        return Path(str(folder)).expanduser().absolute()

    def _read_local(
        self, options: Mapping[str, Any], fleet: Fleet, request: added_serve.Request, _task_vars: Mapping[str, Any]
    ) -> tuple[Recipe, dict[str, Weights], added_serve.Request]:
        """The weights at a path. Hosts that do not have them are left out."""
        hosts = options["hosts"] or list(_task_vars.get("ansible_play_hosts_all") or ())
        results = dict(zip(hosts, options["models"], strict=True)) if options["models"] else {}
        described = None
        for host, answer in results.items():
            if answer.get("models"):
                described = described or answer["models"][0]
            elif host in fleet.rooms:
                del fleet.rooms[host]
                fleet.left_out[host] = str(answer.get("msg") or "its weights were not read").strip().splitlines()[0]
        if described is None:
            why = "; ".join(f"{host}: {text}" for host, text in fleet.left_out.items())
            raise fail("no host has readable weights at this path", request.path, why, "give a path on the host")
        facts = read_described_facts(described)
        names = [name for name in (facts.name, facts.base_name) if name]
        recipe = use_local_weights(find_own_recipe(options, names), request.path, facts)
        (variant,) = recipe.variants
        return recipe, {variant: Weights(facts)}, replace(request, wish=replace(request.wish, variant=""))

    def _read_repository(
        self, options: Mapping[str, Any], _fleet: Fleet, request: added_serve.Request, _task_vars: Mapping[str, Any]
    ) -> tuple[Recipe, dict[str, Weights], added_serve.Request]:
        """The recipe of a repository, and the headers of its variants as far as the hub can be reached."""
        recipe = find_own_recipe(options)
        if recipe is None:
            return self._read_unknown(options, request)
        usable = {name: one for name, one in recipe.variants.items() if one.format != GGUF}
        gguf = [one.repo for one in recipe.variants.values() if one.format == GGUF]
        if gguf:
            note = f"GGUF: fetch {gguf[0]} with playbooks/models.yml, then -e model=/path/of/the/file.gguf"
            recipe = replace(recipe, notes=(*recipe.notes, note))
        wish = request.wish
        if not wish.variant and request.model != recipe.model:
            wish = replace(wish, variant=next((name for name, one in usable.items() if one.repo == request.model), ""))
        if wish.variant and wish.variant not in usable:
            raise fail("the recipe has no variant of this name", wish.variant, hint=suggest_name(wish.variant, sorted(usable)))
        if not usable:
            raise fail("this model is served from GGUF files", request.model, hint=recipe.notes[-1])
        if wish.engine and wish.engine not in recipe.engines:
            raise fail("the recipe has no such engine", wish.engine, hint=suggest_name(wish.engine, sorted(recipe.engines)))
        recipe = replace(recipe, variants=usable)
        read = {name: read_header(options, one.repo) for name, one in usable.items() if wish.variant in ("", name)}
        return recipe, read, replace(request, wish=wish)

    @staticmethod
    def _read_unknown(
        options: Mapping[str, Any], request: added_serve.Request
    ) -> tuple[Recipe, dict[str, Weights], added_serve.Request]:
        """A repository without a recipe: its headers say what it is."""
        weights = read_header(options, request.model)
        if weights.facts is None:
            raise fail(
                "there is no recipe for this model, and its headers cannot be read",
                request.model,
                weights.why,
                "fetch it with playbooks/models.yml and give its path on the host: -e model=/srv/models/…",
            )
        if weights.facts.format == "gguf":
            raise fail(
                "this model is served from a GGUF file",
                request.model,
                hint="fetch it with playbooks/models.yml and give the path of the file on the host: -e model=/srv/models/…",
            )
        recipe = imply_recipe(request.model, weights.facts)
        (variant,) = recipe.variants
        return recipe, {variant: weights}, replace(request, wish=replace(request.wish, variant=""))
