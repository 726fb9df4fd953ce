# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check a workflow file with the program that will run it, so the two cannot disagree."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail

RUNTIME = Path(__file__).resolve().parents[3] / "roles" / "workflow" / "files"
PACKAGE = "anvil_workflow"
MODEL_URL = "OPENAI_BASE_URL"
MODEL_KEY = "OPENAI_API_KEY"


def check_workflow_file(path: str) -> dict[str, Any]:
    """The description of a workflow file by its runtime. Raises AnvilError with every mistake and its line."""
    if not path:
        raise fail("no workflow file is given", where="workflow", hint="pass -e workflow=path/to/workflow.yaml")
    if not Path(path).is_file():
        hint = "pass a path on the controller, relative to the folder in which ansible-playbook was started"
        raise fail("the workflow file does not exist", where=path, hint=hint)
    result = _run_runtime("check", path, "--format", "json")
    if not result["ok"]:
        raise AnvilError(*(_as_problem(path, problem) for problem in result["problems"]))
    described: dict[str, Any] = result["workflow"]
    return described


def read_input_schema(path: str) -> dict[str, Any]:
    """The JSON Schema of the inputs of a workflow."""
    schema: dict[str, Any] = _run_runtime("openapi", path)["components"]["schemas"]["Inputs"]
    return schema


def _run_runtime(*words: str) -> dict[str, Any]:
    """The JSON that a command of the runtime prints. It runs in this process, because a second interpreter takes a second."""
    if str(RUNTIME) not in sys.path:
        sys.path.append(str(RUNTIME))
    printed = io.StringIO()
    try:
        program = importlib.import_module(f"{PACKAGE}.__main__")
        with contextlib.redirect_stdout(printed):
            program.main(list(words))
    except ImportError as error:
        raise _missing_package(str(error.name or error)) from error
    result: dict[str, Any] = json.loads(printed.getvalue())
    return result


def _as_problem(path: str, found: Mapping[str, Any]) -> Problem:
    place = f"{path}:{found['line']}:{found['column']}" if found.get("line") else path
    key = f" {found['path']}" if found.get("path") else ""
    value = found.get("value")
    why = "" if value in (None, "") else f"the value is {value}"
    return Problem(str(found["what"]), place + key, why, str(found.get("do") or ""))


def _missing_package(module: str) -> AnvilError:
    """The error for a package that the runtime imports and the controller lacks, with the pin from the runtime's requirements."""
    pins = (RUNTIME / "requirements.txt").read_text(encoding="utf-8").splitlines()
    package = {"yaml": "PyYAML"}.get(module, module.partition(".")[0])
    pin = next((line for line in pins if line.lower().startswith(package.lower() + "==")), package)
    return fail(
        f"the Python package {package} is missing on the controller",
        where=sys.executable,
        why="the program that will run the workflow checks its file on the controller, and needs this package",
        hint=f"{sys.executable} -m pip install {pin}",
    )


def list_variables(described: Mapping[str, Any]) -> dict[str, str | None]:
    """The environment variables of a workflow -> default; None if the operator must set one.

    The URL and the key of the models are not among them: the plan decides the URL, and the key is a private file.
    """
    found = {str(one["name"]): None if one["required"] else str(one["default"] or "") for one in described.get("variables") or []}
    return {name: default for name, default in found.items() if name not in (MODEL_URL, MODEL_KEY)}


def uses_model_endpoint(described: Mapping[str, Any]) -> bool:
    """Whether a node uses the common OpenAI-compatible endpoint, and not only addresses of its own."""
    return any(one["name"] == MODEL_URL for one in described.get("variables") or [])
