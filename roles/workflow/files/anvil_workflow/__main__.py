# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m anvil_workflow check|schema|openapi|serve``"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anvil_workflow.environment.variables import SettingsError, hide_credentials
from anvil_workflow.language.problems import WorkflowError
from anvil_workflow.language.reading import read_workflow
from anvil_workflow.stores.jobs import StoreError

LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


class PlainFormatter(logging.Formatter):
    """A log without the credentials in URLs, in tracebacks too."""

    def format(self, record: logging.LogRecord) -> str:
        return hide_credentials(super().format(record))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="anvil_workflow", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    check = verbs.add_parser("check", help="print every mistake in a workflow file; exit code 2 if there is one")
    check.add_argument("file", type=Path)
    check.add_argument("--format", choices=("text", "json"), default="text")
    verbs.add_parser("schema", help="print the JSON Schema of workflow files, for editors")
    openapi = verbs.add_parser("openapi", help="print the OpenAPI document of the server of a workflow")
    openapi.add_argument("file", type=Path)
    verbs.add_parser("serve", help="run the server; its settings are environment variables (docs/workflow.md)")
    move = verbs.add_parser("move", help="move all jobs from one store to another; no server may run meanwhile")
    move.add_argument("source", help="a URL such as sqlite:////data/jobs.sqlite, or jobs for the store in WORKFLOW_JOBS")
    move.add_argument("target", help="as source")
    parsed = parser.parse_args(arguments)
    if parsed.verb == "check":
        return print_check(parsed.file, parsed.format)
    if parsed.verb == "schema":
        from anvil_workflow.language.schema import build_editor_schema

        return _print_json(build_editor_schema())
    if parsed.verb == "serve":
        return serve()
    if parsed.verb == "move":
        return asyncio.run(move_between_stores(parsed.source, parsed.target))
    try:
        workflow = read_workflow(parsed.file)
    except WorkflowError as error:
        return _print_problems(error, parsed.file)
    from anvil_workflow.server.openapi import build_openapi

    return _print_json(build_openapi(workflow))


def _print_json(value: Any) -> int:
    print(json.dumps(value, indent=2, ensure_ascii=False))
    return 0


def _print_problems(error: WorkflowError, file: Path) -> int:
    for problem in error.problems:
        print(problem.as_text(str(file)), file=sys.stderr)
    return 2


def print_check(file: Path, form: str) -> int:
    try:
        workflow = read_workflow(file)
    except WorkflowError as error:
        if form == "text":
            return _print_problems(error, file)
        print(json.dumps({"ok": False, "problems": [problem.as_dict() for problem in error.problems], "workflow": None}))
        return 2
    described = {
        "name": workflow.name,
        "version": workflow.version,
        "description": workflow.description,
        "inputs": list(workflow.inputs),
        "outputs": list(workflow.outputs),
        "variables": [asdict(variable) for variable in workflow.list_variables()],
        "models": workflow.list_models(),
        "unpriced": workflow.list_unpriced(workflow.file.config.prices),
    }
    if form == "json":
        print(json.dumps({"ok": True, "problems": [], "workflow": described}, ensure_ascii=False))
    else:
        print(
            f"{file}: workflow {workflow.name}: {len(workflow.nodes)} nodes; inputs: {', '.join(workflow.inputs) or 'none'};"
            f" outputs: {', '.join(workflow.outputs)}"
        )
    return 0


async def move_between_stores(source: str, target: str) -> int:
    from anvil_workflow.environment.settings import read_settings
    from anvil_workflow.stores.job_move import move_jobs
    from anvil_workflow.stores.store_url import open_store

    settings = read_settings()
    urls = (settings.jobs if name == "jobs" else name for name in (source, target))
    stores = [open_store(url, password=settings.jobs_password, lease=settings.lease) for url in urls]
    async with contextlib.AsyncExitStack() as stack:
        for store in stores:
            await store.open()
            stack.push_async_callback(store.close)
        print(json.dumps({"moved": await move_jobs(*stores)}))
    return 0


def serve() -> int:
    from anvil_workflow.environment.settings import read_settings
    from anvil_workflow.server.app import make_app
    from anvil_workflow.server.listening import serve_app

    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(PlainFormatter(LOG_FORMAT))
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        settings = read_settings()
        workflow = read_workflow(settings.file)
        return 0 if serve_app(settings, make_app(settings, workflow)) else 1
    except SettingsError as error:
        print(f"the settings cannot be used:\n{hide_credentials(str(error))}", file=sys.stderr)
        return 2
    except WorkflowError as error:
        return _print_problems(error, settings.file)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StoreError as error:
        print(f"the job store cannot be used: {hide_credentials(str(error))}", file=sys.stderr)
        sys.exit(2)
