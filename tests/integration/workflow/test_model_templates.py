"""The examples against real llama-servers whose chat templates differ: one takes no system message, one opens the thoughts."""

from __future__ import annotations

import asyncio
import http.client
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from anvil_workflow.language.reading import parse_workflow
from anvil_workflow.runner.endpoints import HttpEndpoint
from anvil_workflow.runner.executor import Executor, Progress
from anvil_workflow.runner.tracing import NO_SPAN
from bed import Bed
from conftest import REPO
from workflowsite import EXAMPLES, ask, wait_for

PORT = 30019
STRICT = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
)
THINKING = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:<think>\n"
INPUTS = {"topic": "rain", "depth": "long", "text": "Ada was calm."}


async def run_example(name: str) -> tuple[dict[str, Any], int]:
    """The outputs of an example whose nodes all have a system text, and how often the model was asked again."""
    text = (EXAMPLES / f"{name}.yaml").read_text()
    if "    system:" not in text:
        text = text.replace("    prompt:", "    system: Be brief.\n    prompt:")
    workflow = parse_workflow(text)
    async with httpx.AsyncClient() as client:
        executor = Executor(workflow, HttpEndpoint(client, {"OPENAI_BASE_URL": f"http://127.0.0.1:{PORT}/v1"}, 60), client)

        async def save(_progress: Progress) -> None:
            return

        progress = await executor.begin({field: INPUTS.get(field, workflow.defaults[field]) for field in workflow.inputs})
        outcome = await executor.run(progress, save, NO_SPAN)
    return outcome.outputs, sum(step["retries"] for step in progress.steps)


@pytest.mark.parametrize(
    ("template", "phrase"),
    [(STRICT, "rain falls softly"), (THINKING, "They ask about rain. </think> rain falls softly")],
    ids=["takes no system message", "opens the thoughts"],
)
def test_every_example_runs_with_other_chat_templates(clean_bed: Bed, tmp_path: Path, template: str, phrase: str) -> None:
    tmp_path.chmod(0o755)
    make = [sys.executable, str(REPO / "bootstrap" / "tinymodel.py"), str(tmp_path / "m.gguf"), "--phrase", phrase]
    subprocess.run([*make, "--name", "m"], check=True)
    (tmp_path / "chat.jinja").write_text(template)
    options = ["--detach", "--name", "model", "--publish", f"127.0.0.1:{PORT}:8080", "--volume", f"{tmp_path}:/models:ro"]
    words = "--model /models/m.gguf --host 0.0.0.0 --port 8080 -c 4096 --jinja --chat-template-file /models/chat.jinja"
    clean_bed.docker("run", *options, "anvil.local/llama-server:1", *words.split(), "--reasoning-format", "none")
    wait_for("the model", is_up)
    outputs, retries = asyncio.run(run_example("linear"))
    assert outputs["article"] == "rain falls softly" and outputs["title"], outputs
    assert retries == 0
    outputs, retries = asyncio.run(run_example("review_loop"))
    assert outputs["draft"] and 0 <= outputs["score"] <= 10 and retries == 0, outputs
    outputs, retries = asyncio.run(run_example("extract"))
    assert outputs["mood"] and retries == 0, outputs


def is_up() -> bool:
    try:
        return ask(PORT, "GET", "/health").status == 200
    except (OSError, http.client.HTTPException):
        return False
