# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two pages, with their content security policy, and the documents that they read: ``/schema``, ``/openapi.json``.

The pages hold no data and need no key. Their scripts ask for the key and send it, so a browser has no credentials of its own.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources
from typing import Any

from fastapi import FastAPI, Response

from anvil_workflow.language.workflow import Workflow
from anvil_workflow.server.responses import JsonAnswer


def add_pages(app: FastAPI, workflow: Workflow, document: dict[str, Any]) -> None:
    page, docs = _read_page("page.html"), _read_page("docs.html")
    headers = {
        text: {"Content-Security-Policy": _write_policy(text), "X-Content-Type-Options": "nosniff"} for text in (page, docs)
    }
    schema = {
        "workflow": {"name": workflow.name, "version": workflow.version, "description": workflow.description},
        "inputs": workflow.build_input_schema(),
        "outputs": workflow.build_output_schema(),
    }

    @app.get("/")
    async def show_page() -> Response:
        return Response(page, media_type="text/html", headers=headers[page])

    @app.get("/docs")
    async def show_docs() -> Response:
        return Response(docs, media_type="text/html", headers=headers[docs])

    @app.get("/schema")
    async def show_schema() -> Response:
        return JsonAnswer(schema)

    @app.get("/openapi.json")
    async def show_openapi() -> Response:
        return JsonAnswer(document)


def _read_page(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _write_policy(text: str) -> str:
    """The policy of a page: only its own script and style, and requests only to this server."""
    hashes = {}
    for tag in ("script", "style"):
        contents = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in contents)
        hashes[tag] = " ".join(f"'sha256-{digest}'" for digest in digests)
    fixed = "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return f"{fixed}; script-src {hashes['script']}; style-src {hashes['style']}"
