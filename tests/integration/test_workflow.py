"""playbooks/workflow.yml as an operator types it: the built image, in front of the real router and real tiny models."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from workflowsite import EXAMPLES, PHRASES, Chain, ask, changed, wait_ended, wait_for

FAST_SERVE = "http://anvil-fast:30003/v1"


def test_one_command_and_a_second_run_changes_nothing(chain: Chain) -> None:
    first = chain.deploy("linear", mlflow_port=0)
    assert "linear answers at http://127.0.0.1:8100" in first and "one request took" in first
    reply = ask(8100, "POST", "/run", {"topic": "the weather"})
    assert reply.status == 200 and reply.body["status"] == "completed", reply
    assert reply.body["outputs"] == {"title": "the heavy tier answers", "article": PHRASES["heavy"]}
    started = chain.started()
    again = chain.deploy("linear", mlflow_port=0)
    assert changed(again) == 0, again
    assert chain.started() == started


def inspect(chain: Chain, container: str, form: str) -> str:
    return chain.bed.docker("inspect", "--format", form, container)


def image_of(chain: Chain, container: str) -> str:
    return inspect(chain, container, "{{.Config.Image}}")


def test_the_image_is_small_and_the_server_rests_in_little_memory(chain: Chain) -> None:
    chain.deploy("linear", mlflow_port=0)
    name = "anvil-workflow-linear"
    size = int(chain.bed.docker("image", "inspect", "--format", "{{.Size}}", image_of(chain, name)))
    assert size < 150e6, f"{size / 1e6:.1f} MB"
    assert inspect(chain, name, "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.Init}}") == "10001:10001 true true"
    used = chain.bed.docker("stats", "--no-stream", "--format", "{{.MemUsage}}", name).split("MiB")[0]
    assert float(used) < 100, used
    wait_for("healthy", lambda: inspect(chain, name, "{{.State.Health.Status}}") == "healthy", 60)


def test_check_mode_predicts_and_touches_nothing(chain: Chain) -> None:
    started = chain.started()
    printed = chain.deploy("extract", "--check", mlflow_port=0, port=8103, model_url=FAST_SERVE, workflow_networks=["anvil"])
    assert changed(printed) >= 1 and chain.started() == started
    assert "anvil-workflow-extract" not in chain.bed.docker("network", "ls")


@pytest.mark.parametrize(("example", "inputs", "outputs"), [
    ("extract", {"text": "Ada was calm."}, {"people", "mood", "place"}),
    ("review_loop", {"topic": "rain", "depth": "long"}, {"draft", "score", "approved"}),
])  # fmt: skip
def test_structured_outputs_conditions_and_loops_against_the_real_server(
    chain: Chain, example: str, inputs: dict[str, str], outputs: set[str]
) -> None:
    where = {"model_url": FAST_SERVE, "workflow_networks": ["anvil"], "port": 8104, "mlflow_port": 0}
    printed = chain.deploy(example, **where)
    assert "one request took" in printed
    reply = ask(8104, "POST", "/run", inputs)
    assert reply.status == 200 and set(reply.body["outputs"]) == outputs, reply
    chain.deploy(example, state="absent", purge=True)


def test_secrets_are_in_private_files_and_nowhere_else(chain: Chain) -> None:
    folder = chain.folder / "secret"
    folder.mkdir()
    text = (EXAMPLES / "linear.yaml").read_text().replace("name: linear", "name: secretive")
    tool = 'tools: [{name: http, config: {url: "http://nowhere.invalid", headers: {Authorization: "Bearer ${TOOL_KEY}"}}}]'
    (folder / "flow.yaml").write_text(text.replace("    outputs: [article]", "    outputs: [article]\n    " + tool))
    hidden = {"TOOL_KEY": "env-s3cret-1", "OPENAI_API_KEY": "env-s3cret-2"}
    (folder / "my.env").write_text("".join(f"{name}='{value}'\n" for name, value in hidden.items()))
    api_key = "api-s3cret-3"
    where = {"model_url": "http://anvil-heavy:30002/v1", "workflow_networks": ["anvil"], "bind": "0.0.0.0", "port": 8105}
    same = {"env_file": str(folder / "my.env"), "mlflow_port": 0, "workflow_verify": False, **where}
    printed = chain.deploy(folder / "flow.yaml", "-vvv", "--diff", workflow_api_key=api_key, **same)
    name = "anvil-workflow-secretive"
    image = image_of(chain, name)
    root = Path(inspect(chain, name, '{{index .Config.Labels "com.docker.compose.project.working_dir"}}'))
    look = "cat /app/workflow.yaml; env; ls /run/secrets || true"
    places = {
        "output": printed,
        "history": chain.bed.docker("history", "--no-trunc", image),
        "image": chain.bed.docker("image", "inspect", image),
        "labels": inspect(chain, name, "{{json .Config.Labels}} {{json .Config.Cmd}} {{json .Config.Entrypoint}}"),
        "log": chain.bed.run("docker", "logs", name).stdout + chain.bed.run("docker", "logs", name).stderr,
        "ps": subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout,
        "compose": (root / "compose.yaml").read_text() + (root / ".mounted.json").read_text(),
        "inside": chain.bed.docker("run", "--rm", "--entrypoint", "sh", image, "-c", look),
    }
    for place, text in places.items():
        assert "s3cret" not in text, (place, text[max(0, text.index("s3cret") - 200) :][:400])
    private = {path.name: path.stat() for path in [*(root / "private").iterdir(), *(root / "env").iterdir()]}
    assert {name: oct(stat.st_mode & 0o777) for name, stat in private.items()} == dict.fromkeys(private, "0o600")
    assert {"api_key", "server.env"} <= set(private)
    assert ask(8105, "POST", "/run", {"topic": "x"}).status == 401
    assert ask(8105, "GET", "/schema", headers={"Authorization": f"Bearer {api_key}"}).status == 200
    assert ask(8105, "GET", "/livez").status == 200
    renewed = {**same, "workflow_api_key": "api-s3cret-4"}
    predicted, done = (chain.deploy(folder / "flow.yaml", *words, **renewed) for words in (["--check"], []))
    assert changed(predicted) == changed(done) == 1 and "s3cret" not in predicted + done
    assert ask(8105, "GET", "/schema", headers={"Authorization": "Bearer api-s3cret-4"}).status == 200
    assert changed(chain.deploy(folder / "flow.yaml", **renewed)) == 0
    chain.deploy(folder / "flow.yaml", state="absent", purge=True)
    assert not root.exists() and name not in chain.bed.docker("volume", "ls") + chain.bed.docker("network", "ls")


def test_what_is_in_the_way_is_told_with_what_to_do(chain: Chain, tmp_path: Path) -> None:
    base = {"mlflow_port": 0, "workflow_project_name": "blocked"}
    code, printed = chain.try_deploy("linear", port=8000, **base)
    assert code and "port 127.0.0.1:8000 is taken" in printed and "container anvil-router" in printed
    chain.bed.docker("run", "--detach", "--name", "anvil-workflow-blocked", "anvil.local/base:1", "sleep", "60")
    code, printed = chain.try_deploy("linear", port=8106, **base)
    assert code and "container name anvil-workflow-blocked is taken" in printed
    chain.bed.docker("rm", "--force", "anvil-workflow-blocked")
    code, printed = chain.try_deploy("linear", env_file="nowhere.env", port=8106, **base)
    assert code and "there is no such env file" in printed and "no host was contacted" in printed
    code, printed = chain.try_deploy("linear", port=8106, workflow_base="anvil.local/nothing:1", **base)
    assert code and "anvil.local/nothing:1 is not on this host" in printed and "bootstrap/images.sh" in printed
    code, printed = chain.try_deploy("linear", port=8106, workflow_size_limit=50, **base)
    assert code and "50 MB is the limit" in printed
    chain.environment = {"DOCKER_HOST": f"unix://{tmp_path}/no.sock"}
    try:
        code, printed = chain.try_deploy("linear", port=8106, **base)
    finally:
        chain.environment = {}
    assert code and "Docker Engine" in printed and "Traceback" not in printed
    assert "anvil-workflow-blocked" not in chain.bed.docker("ps", "--all")


def test_a_mistake_in_the_file_ends_before_docker_is_looked_at(chain: Chain, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text((EXAMPLES / "linear.yaml").read_text().replace("{topic}.", "{topik}.").replace("to: END", "to: nowhere"))
    chain.environment = {"DOCKER_HOST": f"unix://{tmp_path}/no.sock"}
    try:
        code, printed = chain.try_deploy(path)
    finally:
        chain.environment = {}
    assert code and "no host was contacted" in printed and "topik" in printed and "nowhere" in printed
    assert f"{path}:" in printed and "Docker" not in printed.replace("Docker and Compose", "")


def test_only_changed_content_is_built_again(chain: Chain) -> None:
    folder = chain.folder / "again"
    folder.mkdir()
    path = folder / "flow.yaml"
    path.write_text((EXAMPLES / "linear.yaml").read_text())
    wish = {"port": 8107, "mlflow_port": 0, "workflow_project_name": "again"}
    chain.deploy(path, **wish)
    one = image_of(chain, "anvil-workflow-again")
    chain.deploy(path, **{**wish, "timeout": 20})
    assert image_of(chain, "anvil-workflow-again") == one
    path.write_text(path.read_text().replace("max_tokens: 64", "max_tokens: 65"))
    predicted = chain.deploy(path, "--check", **wish)
    done = chain.deploy(path, **wish)
    assert changed(predicted) == changed(done) == 2 and image_of(chain, "anvil-workflow-again") != one
    kept = chain.deploy(path, state="absent")
    assert changed(kept) == 1 and "anvil-workflow-again-data" in chain.bed.docker("volume", "ls")
    assert changed(chain.deploy(path, "--check", state="absent", workflow_project_name="again")) in (0, 1)
    chain.deploy(path, state="absent", purge=True, workflow_project_name="again")


def test_a_run_survives_a_kill_of_the_server_and_nothing_runs_twice(chain: Chain) -> None:
    chain.deploy("linear", mlflow_port=0)
    locations = []
    for number in range(20):
        reply = ask(
            8100, "POST", "/run", {"topic": f"kill {number}"}, {"Prefer": "respond-async", "Idempotency-Key": f"k{number}"}
        )
        assert reply.status == 202, reply
        locations.append(reply.headers["location"])
    chain.bed.docker("kill", "--signal", "KILL", "anvil-workflow-linear")
    chain.bed.docker("start", "anvil-workflow-linear")
    wait_for("ready", lambda: ask(8100, "GET", "/readyz").status == 200)
    jobs = [wait_ended(8100, location) for location in locations]
    assert [job["status"] for job in jobs] == ["completed"] * 20
    again = ask(8100, "POST", "/run", {"topic": "kill 3"}, {"Idempotency-Key": "k3"})
    assert again.body["job_id"] == jobs[3]["job_id"]


def test_mlflow_gets_every_run_and_its_death_costs_nothing(chain: Chain) -> None:
    chain.deploy("linear", port=8108, mlflow_port=5008, workflow_project_name="traced")
    before = [_timed(8108) for _unused in range(10)]
    search = "/api/2.0/mlflow/traces?experiment_ids=1&max_results=50"
    wait_for("traces", lambda: len(ask(5008, "GET", search).body.get("traces", [])) >= 10, 30)
    for act in ("kill", "pause"):
        chain.bed.docker("start", "anvil-workflow-traced-mlflow")
        chain.bed.docker(act, "anvil-workflow-traced-mlflow")
        after = [_timed(8108) for _unused in range(10)]
        assert sorted(after)[5] < sorted(before)[5] * 2 + 0.1, (act, before, after)
        if act == "pause":
            chain.bed.docker("unpause", "anvil-workflow-traced-mlflow")
    assert "traces" in chain.deploy("linear", port=8108, mlflow_port=5008, workflow_project_name="traced")
    chain.deploy("linear", state="absent", purge=True, workflow_project_name="traced")


def _timed(port: int) -> float:
    began = time.monotonic()
    reply = ask(port, "POST", "/run", {"topic": "time"})
    assert reply.status == 200, reply
    return time.monotonic() - began
