"""playbooks/workflow.yml as an operator runs it: it builds the image and deploys it with the real router and tiny models."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from anvil_workflow.language.reading import parse_workflow, read_workflow
from anvil_workflow.language.workflow import Workflow
from anvil_workflow.runner.endpoints import HttpEndpoint
from anvil_workflow.runner.executor import Executor, Progress
from anvil_workflow.runner.tracing import NO_SPAN
from bed import Host
from harness import run_module
from workflowsite import EXAMPLES, PHRASES, Chain, Reply, ask, changed, wait_ended, wait_for

GATEWAY = """
[router]
[[router.tiers]]
id = "heavy"
base_url = "http://anvil-heavy:30002/v1"
model = "heavy"
dialect = "openai"
context_limit = 4096
privacy = "local"
tool_support = true
auth_env = "ANVIL_KEY"
[[router.tiers]]
id = "fast"
base_url = "http://anvil-fast:30003/v1"
model = "fast"
dialect = "openai"
context_limit = 4096
privacy = "local"
tool_support = true
auth_env = "ANVIL_KEY"
[router.model_routes]
heavy = "heavy"
fast = "fast"
"""


@pytest.fixture(scope="module")
def linear(chain: Chain) -> str:
    """The output of the deployment that the tests share; it answers on port 8100."""
    return chain.deploy("linear", mlflow_port=0)


def test_one_command_and_a_second_run_changes_nothing(chain: Chain, linear: str) -> None:
    assert "linear answers at http://127.0.0.1:8100" in linear and "one request took" in linear
    reply = ask(8100, "POST", "/run", {"topic": "the weather"})
    assert reply.status == 200 and reply.body["status"] == "completed", reply
    assert reply.body["outputs"] == {"title": "the heavy tier answers", "article": PHRASES["heavy"]}
    started = chain.bed.started()
    again = chain.deploy("linear", mlflow_port=0)
    assert changed(again) == 0, again
    assert chain.bed.started() == started


def inspect(chain: Chain, container: str, form: str) -> str:
    return chain.bed.docker("inspect", "--format", form, container)


def image_of(chain: Chain, container: str) -> str:
    return inspect(chain, container, "{{.Config.Image}}")


@pytest.mark.usefixtures("linear")
def test_the_image_is_small_and_the_idle_server_uses_little_memory(chain: Chain) -> None:
    name = "anvil-workflow-linear"
    size = int(chain.bed.docker("image", "inspect", "--format", "{{.Size}}", image_of(chain, name)))
    assert size < 150e6, f"{size / 1e6:.1f} MB"
    bases = {"anvil.local/base:1": True, "anvil.local/edge:1": False, "anvil.local/gone:1": True}
    told = {base: run_module("anvil_image_info", name=image_of(chain, name), base=base)["fresh"] for base in bases}
    assert told == bases and not run_module("anvil_image_info", name="anvil.local/gone:1", base="anvil.local/base:1")["fresh"]
    assert inspect(chain, name, "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.Init}}") == "10001:10001 true true"
    used = chain.bed.docker("stats", "--no-stream", "--format", "{{.MemUsage}}", name).split("MiB")[0]
    assert float(used) < 100, used
    wait_for("healthy", lambda: inspect(chain, name, "{{.State.Health.Status}}") == "healthy", 60)


def test_check_mode_predicts_and_changes_nothing(chain: Chain) -> None:
    started = chain.bed.started()
    printed = chain.deploy("extract", "--check", mlflow_port=0, port=8103)
    assert changed(printed) >= 1 and chain.bed.started() == started
    assert "anvil-workflow-extract" not in chain.bed.docker("network", "ls")


@pytest.fixture(scope="module")
def gateway(chain: Chain) -> Iterator[str]:
    """A router of the newer generation with the same tiers."""
    folder = chain.folder / "gateway"
    folder.mkdir()
    (folder / "config.toml").write_text(GATEWAY)
    where = [
        "--network",
        "anvil-serve-heavy",
        "--publish",
        "127.0.0.1:8009:8000",
        "--volume",
        f"{folder}:/etc/anvil:ro",
        "--env",
        "ANVIL_KEY=x",
    ]
    chain.bed.docker("run", "--detach", "--name", "gateway", *where, "anvil.local/router:2.0.2")
    chain.bed.docker("network", "connect", "anvil-serve-fast", "gateway")
    url = "http://127.0.0.1:8009"
    wait_for("the gateway", lambda: ask(8009, "GET", "/healthz").status == 200)
    yield url
    chain.bed.docker("rm", "--force", "gateway")


async def run_example(example: str, url: str, inputs: dict[str, str]) -> tuple[dict[str, Any], list[str], int]:
    """Outputs, the nodes that ran, and how often a model had to be asked again, of the second of two runs."""
    outputs, progress = await run_workflow(read_workflow(EXAMPLES / f"{example}.yaml"), url, inputs)
    return outputs, [step["node"] for step in progress.steps], sum(step["retries"] for step in progress.steps)


async def run_workflow(workflow: Workflow, url: str, inputs: dict[str, str]) -> tuple[dict[str, Any], Progress]:
    async with httpx.AsyncClient() as client:
        environment = {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "a-token-of-the-tests"}
        executor = Executor(workflow, HttpEndpoint(client, environment, 60), client)

        async def save(_progress: Progress) -> None:
            return

        for _unused in range(2):
            progress = await executor.begin({name: inputs.get(name, workflow.defaults[name]) for name in workflow.inputs})
            outcome = await executor.run(progress, save, NO_SPAN)
        return outcome.outputs, progress


@pytest.mark.parametrize("router", ["0.13.2", "2.0.2"])
def test_every_example_runs_through_the_real_router(chain: Chain, gateway: str, router: str) -> None:
    url = gateway if router == "2.0.2" else "http://127.0.0.1:8000"
    outputs, nodes, retries = asyncio.run(run_example("linear", url, {"topic": "rain"}))
    assert (outputs["title"], nodes, retries) == ("the heavy tier answers", ["write", "find_title"], 0)
    outputs, nodes, retries = asyncio.run(run_example("review_loop", url, {"topic": "rain", "depth": "long"}))
    # The model approves by chance; the loop ends after three rounds at most.
    assert nodes[:3] == ["plan", "write_draft", "review"] and set(nodes[3:]) <= {"review"} and len(nodes) <= 5
    assert outputs["draft"] == PHRASES["fast"] and 0 <= outputs["score"] <= 10 and retries == 0
    short = asyncio.run(run_example("review_loop", url, {"topic": "rain", "depth": "short"}))
    assert short[1][:2] == ["write_draft", "review"]
    outputs, nodes, retries = asyncio.run(run_example("extract", url, {"text": "Ada was calm."}))
    assert outputs["mood"] == "calm" and set(outputs["place"]) == {"name", "country"} and retries == 0


@pytest.mark.parametrize("router", ["0.13.2", "2.0.2"])
def test_streams_give_the_same_answers_and_tokens_are_counted_or_unknown(chain: Chain, gateway: str, router: str) -> None:
    """Router 0.13.2 relays no count of tokens in a stream."""
    url = gateway if router == "2.0.2" else "http://127.0.0.1:8000"
    prices = "  prices: {heavy: {prompt: 1, completion: 2}, fast: {prompt: 1, completion: 2}}\n"
    text = (EXAMPLES / "linear.yaml").read_text().replace("max_tokens: 64", "max_tokens: 64\n    stream: true") + prices
    outputs, linear = asyncio.run(run_workflow(parse_workflow(text), url, {"topic": "rain"}))
    assert outputs == {"title": "the heavy tier answers", "article": PHRASES["heavy"]}
    text = (EXAMPLES / "extract.yaml").read_text().replace("max_tokens: 200", "max_tokens: 200, stream: true") + prices
    outputs, extract = asyncio.run(run_workflow(parse_workflow(text), url, {"text": "Ada was calm."}))
    assert outputs["mood"] == "calm"
    for progress, calls in ((linear, 2), (extract, 1)):
        if router == "0.13.2":
            assert (progress.unknown_calls, progress.cost) == (calls, 0.0), progress.spent
        else:
            assert progress.prompt_tokens > 0 and progress.completion_tokens > 0 and progress.unknown_calls == 0
            assert progress.cost == round((progress.prompt_tokens + 2 * progress.completion_tokens) / 1e6, 9)


def test_structured_outputs_of_the_built_image_through_the_router(chain: Chain) -> None:
    printed = chain.deploy("extract", port=8104, mlflow_port=0)
    assert "one request took" in printed
    reply = ask(8104, "POST", "/run", {"text": "Ada was calm."})
    assert reply.status == 200 and set(reply.body["outputs"]) == {"people", "mood", "place"}, reply
    told = chain.bed.run("docker", "logs", "anvil-workflow-extract").stderr
    assert told.count("from now on its answers are requested by a tool that the model must call") == 1
    chain.deploy("extract", state="absent", purge=True)


def test_secrets_are_in_private_files_and_nowhere_else(chain: Chain) -> None:
    folder = chain.folder / "secret"
    folder.mkdir()
    text = (EXAMPLES / "linear.yaml").read_text().replace("name: linear", "name: secretive")
    tool = 'tools: [{name: http, config: {url: "http://nowhere.invalid", headers: {Authorization: "Bearer ${TOOL_KEY}"}}}]'
    (folder / "flow.yaml").write_text(text.replace("    outputs: [article]", "    outputs: [article]\n    " + tool))
    hidden = {"TOOL_KEY": "env-s3cret-1", "OPENAI_API_KEY": "env-s3cret-2"}
    (folder / "my.env").write_text("".join(f"{name}='{value}'\n" for name, value in hidden.items()))
    api_key = "api-s3cret-3"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=flow.lan"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(words, check=True, capture_output=True)
    tls = {"certificate": str(folder / "cert.pem"), "key": str(folder / "key.pem")}
    key_lines = (folder / "key.pem").read_text().splitlines()[1:3]
    trust = ssl.create_default_context(cafile=str(folder / "cert.pem"))
    where = {
        "model_url": "http://anvil-heavy:30002/v1",
        "workflow_networks": ["anvil-serve-heavy"],
        "bind": "0.0.0.0",
        "port": 8105,
    }
    refused, told = chain.try_deploy(folder / "flow.yaml", mlflow_port=0, env_file=str(folder / "my.env"),
                                     workflow_api_key=api_key, **where)  # fmt: skip
    assert refused and "without TLS" in told and "workflow_tls" in told and "no host was contacted" in told
    where["workflow_tls"] = tls
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
        assert not any(line in text for line in key_lines), place
        assert "s3cret" not in text, (place, text[max(0, text.index("s3cret") - 200) :][:400])
    private = {path.name: path.stat() for path in [*(root / "private").iterdir(), *(root / "env").iterdir()]}
    assert {name: oct(stat.st_mode & 0o777) for name, stat in private.items()} == dict.fromkeys(private, "0o600")
    assert {"api_key", "server.env"} <= set(private)
    assert ask(8105, "POST", "/run", {"topic": "x"}, trust=trust).status == 401
    assert ask(8105, "GET", "/schema", headers={"Authorization": f"Bearer {api_key}"}, trust=trust).status == 200
    assert ask(8105, "GET", "/livez", trust=trust).status == 200
    with pytest.raises(OSError):
        ask(8105, "GET", "/livez", timeout=5)
    renewed = {**same, "workflow_api_key": "api-s3cret-4"}
    predicted, done = (chain.deploy(folder / "flow.yaml", *words, **renewed) for words in (["--check"], []))
    assert changed(predicted) == changed(done) == 1 and "s3cret" not in predicted + done
    assert ask(8105, "GET", "/schema", headers={"Authorization": "Bearer api-s3cret-4"}, trust=trust).status == 200
    assert changed(chain.deploy(folder / "flow.yaml", **renewed)) == 0
    chain.deploy(folder / "flow.yaml", state="absent", purge=True)
    assert not root.exists() and name not in chain.bed.docker("volume", "ls") + chain.bed.docker("network", "ls")


def test_each_obstacle_is_reported_with_a_way_out(chain: Chain, tmp_path: Path) -> None:
    base = {"mlflow_port": 0, "workflow_project_name": "blocked"}
    code, printed = chain.try_deploy("linear", port=8000, **base)
    assert code and "port 127.0.0.1:8000 is taken" in printed and "container anvil-router" in printed
    chain.bed.docker("run", "--detach", "--name", "anvil-workflow-blocked", "anvil.local/base:1", "sleep", "60")
    code, printed = chain.try_deploy("linear", port=8106, **base)
    assert code and "container name anvil-workflow-blocked is taken" in printed
    chain.bed.docker("rm", "--force", "anvil-workflow-blocked")
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


def test_a_mistake_in_the_file_is_reported_before_docker_is_contacted(chain: Chain, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text((EXAMPLES / "linear.yaml").read_text().replace("{topic}.", "{topik}.").replace("to: END", "to: nowhere"))
    chain.environment = {"DOCKER_HOST": f"unix://{tmp_path}/no.sock"}
    try:
        code, printed = chain.try_deploy(path)
    finally:
        chain.environment = {}
    assert code and "no host was contacted" in printed and "topik" in printed and "nowhere" in printed
    assert f"{path}:" in printed and "Docker" not in printed.replace("Docker and Compose", "")


AGAIN = {"port": 8107, "mlflow_port": 0, "workflow_project_name": "again"}


@pytest.fixture(scope="module")
def again(chain: Chain) -> Path:
    """A workflow file that is deployed and then changed; its jobs are on a disk of 4 MB."""
    path = chain.folder / "again.yaml"
    path.write_text((EXAMPLES / "linear.yaml").read_text())
    disk = ["--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=size=4m,uid=10001"]
    chain.bed.docker("volume", "create", *disk, "anvil-workflow-again-data")
    chain.deploy(path, **AGAIN)
    return path


def test_only_changed_content_is_built_again(chain: Chain, again: Path) -> None:
    one = image_of(chain, "anvil-workflow-again")
    chain.deploy(again, **{**AGAIN, "timeout": 20})
    assert image_of(chain, "anvil-workflow-again") == one
    again.write_text(again.read_text().replace("max_tokens: 64", "max_tokens: 65"))
    predicted = chain.deploy(again, "--check", **AGAIN)
    done = chain.deploy(again, **AGAIN)
    assert changed(predicted) == changed(done) == 2 and image_of(chain, "anvil-workflow-again") != one


def test_a_full_disk_of_a_deployed_workflow_is_reported_and_loses_no_job(chain: Chain, again: Path) -> None:
    name = "anvil-workflow-again"
    known = ask(8107, "POST", "/run", {"topic": "before"}, {"Idempotency-Key": "before"})
    assert known.status == 200, known
    chain.bed.run("docker", "exec", name, "sh", "-c", "cat /dev/zero > /data/ballast", check=False)
    refused: list[Reply] = []

    def is_refused() -> bool:
        refused.append(ask(8107, "POST", "/run", {"topic": "x" * 200}))
        return refused[-1].status == 503

    wait_for("a refusal", is_refused)
    assert "full" in refused[-1].body["error"]["message"] and refused[-1].headers["retry-after"] == "5"
    wait_for("not ready", lambda: ask(8107, "GET", "/readyz").status == 503)
    assert "full" in ask(8107, "GET", "/readyz").body["checks"]["store"] and ask(8107, "GET", "/livez").status == 200
    assert ask(8107, "GET", f"/status/{known.body['job_id']}").body["outputs"] == known.body["outputs"]
    chain.bed.docker("exec", name, "rm", "/data/ballast")
    wait_for("ready", lambda: ask(8107, "GET", "/readyz").status == 200)
    repeated = ask(8107, "POST", "/run", {"topic": "before"}, {"Idempotency-Key": "before"})
    assert repeated.body["job_id"] == known.body["job_id"]
    assert ask(8107, "POST", "/run", {"topic": "after"}).status == 200
    accepted = [f"/status/{one.body['job_id']}" for one in refused if one.status in (200, 202)]
    assert all(wait_ended(8107, location)["status"] == "completed" for location in accepted)


def test_absent_keeps_the_jobs(chain: Chain, again: Path) -> None:
    assert changed(chain.deploy(again, state="absent", **AGAIN)) == 1
    assert "anvil-workflow-again-data" in chain.bed.docker("volume", "ls")
    assert changed(chain.deploy(again, "--check", state="absent", **AGAIN)) == 0


@pytest.mark.usefixtures("linear")
def test_runs_survive_a_kill_of_the_server_and_a_key_runs_once(chain: Chain) -> None:
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


TRACED = {"port": 8108, "mlflow_port": 5008, "workflow_project_name": "traced"}
TRACES = "/api/2.0/mlflow/traces?experiment_ids=1&max_results=100"


def test_mlflow_gets_every_run_and_a_dead_mlflow_does_not_slow_runs(chain: Chain, outside: str) -> None:
    chain.deploy("linear", **TRACED)
    # Another machine answers the servers, which have tools to call, and does not answer MLflow.
    connect = f"import socket; print(socket.socket().connect_ex(({outside!r}, 8000)))"
    said = {
        name: chain.bed.run("docker", "exec", name, "timeout", "2", "python3", "-c", connect, check=False).stdout.strip()
        for name in ("anvil-workflow-traced", "anvil-workflow-traced-mlflow")
    }
    assert said["anvil-workflow-traced"] == "0" and said["anvil-workflow-traced-mlflow"] != "0", said
    before = [_timed(8108) for _unused in range(10)]
    wait_for("traces", lambda: len(ask(5008, "GET", TRACES).body.get("traces", [])) >= 10, 60)
    for act in ("kill", "pause"):
        chain.bed.docker("start", "anvil-workflow-traced-mlflow")
        chain.bed.docker(act, "anvil-workflow-traced-mlflow")
        after = [_timed(8108) for _unused in range(10)]
        assert sorted(after)[5] < sorted(before)[5] * 2 + 0.1, (act, before, after)
        if act == "pause":
            chain.bed.docker("unpause", "anvil-workflow-traced-mlflow")


def test_a_published_mlflow_requires_its_password_and_traces_still_arrive(chain: Chain) -> None:
    """The same deployment changes from loopback to all addresses; existing traces stay."""
    printed = chain.deploy("linear", mlflow_bind="0.0.0.0", insecure=True, **TRACED)
    assert "traces: http://0.0.0.0:5008" in printed
    root = Path(inspect(chain, "anvil-workflow-traced", '{{index .Config.Labels "com.docker.compose.project.working_dir"}}'))
    secret = root / "private" / "mlflow_password"
    assert secret.stat().st_mode & 0o777 == 0o600
    password = secret.read_text().strip()
    client = (root / "private" / "mlflow_client_password").read_text().strip()
    known = {"Authorization": "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()}
    wrong = {"Authorization": "Basic " + base64.b64encode(b"admin:password1234").decode()}
    for headers in ({}, wrong):
        assert ask(5008, "GET", TRACES, headers=headers).status == 401
    kept = len(ask(5008, "GET", TRACES, headers=known).body["traces"])
    assert kept >= 10
    for _unused in range(5):
        _timed(8108)
    own = {"Authorization": "Basic " + base64.b64encode(b"workflow:" + client.encode()).decode()}
    wait_for("its own experiment", lambda: len(ask(5008, "GET", TRACES, headers=own).body.get("traces", [])) >= kept, 60)
    other = ask(5008, "POST", "/api/2.0/mlflow/experiments/create", {"name": "other"}, headers=known).body["experiment_id"]
    place = f"/api/2.0/mlflow/traces?experiment_ids={other}"
    assert [ask(5008, "GET", place, headers=who).status for who in (known, own)] == [200, 403]
    admin_only = "/api/2.0/mlflow/users/get?username=admin"
    assert [ask(5008, "GET", admin_only, headers=who).status for who in (known, own)] == [200, 403]
    wait_for("more traces", lambda: len(ask(5008, "GET", TRACES, headers=known).body["traces"]) >= kept + 5, 60)
    shown = printed + chain.bed.docker("inspect", "anvil-workflow-traced", "anvil-workflow-traced-mlflow")
    assert password not in shown and client not in shown
    mounted = chain.bed.docker("inspect", "--format", "{{json .Mounts}}", "anvil-workflow-traced")
    assert "mlflow_client_password" in mounted and "mlflow_password" not in mounted
    assert changed(chain.deploy("linear", mlflow_bind="0.0.0.0", insecure=True, **TRACED)) == 0


def _timed(port: int) -> float:
    began = time.monotonic()
    reply = ask(port, "POST", "/run", {"topic": "time"})
    assert reply.status == 200, reply
    return time.monotonic() - began


@pytest.fixture
def away(chain: Chain) -> Iterator[tuple[Chain, Host]]:
    """Another host with its own engine and model, reached by ssh as a user who can use the engine only with sudo."""
    images = ["anvil.local/base:1", "anvil.local/llama-server:1"]
    plugins = json.loads(chain.bed.docker("info", "--format", "{{json .ClientInfo.Plugins}}"))
    (builder,) = (plugin["Path"] for plugin in plugins if plugin["Name"] == "buildx")
    mounts = [f"{chain.folder}/models:/models:ro", f"{builder}:/usr/libexec/docker/cli-plugins/docker-buildx:ro"]
    host = chain.bed.host_up("away", images=images, mounts=mounts)
    key, inventory = chain.folder / "key", chain.folder / "away.yml"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    known = key.with_suffix(".pub").read_text().strip()
    made = f"useradd -m op && mkdir /home/op/.ssh && echo '{known}' > /home/op/.ssh/authorized_keys && chown -R op: /home/op"
    may = "echo 'op ALL=(root) NOPASSWD: ALL' > /etc/sudoers.d/op"
    host.run("sh", "-c", f"{made} && {may} && ssh-keygen -A && /usr/sbin/sshd")
    there = {
        "ansible_connection": "ssh",
        "ansible_host": host.ip(),
        "ansible_user": "op",
        "ansible_become": True,
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_ssh_private_key_file": str(key),
        "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o IdentitiesOnly=yes",
    }
    inventory.write_text(json.dumps({"all": {"hosts": {"away": there}}}))
    host.docker("network", "create", "anvil")
    server = "--volume /models:/models:ro anvil.local/llama-server:1 --model /models/fast.gguf --host 0.0.0.0 --port 8080 -c 4096"
    host.docker("run", "--detach", "--name", "models", "--network", "anvil", *server.split())
    yield Chain(chain.bed, chain.folder, inventory=inventory), host
    chain.bed.host_down("away")


def test_a_deployment_works_on_a_host_behind_ssh_and_sudo(away: tuple[Chain, Host]) -> None:
    operator, host = away
    wish = {"model_url": "http://models:8080/v1", "workflow_networks": ["anvil"], "mlflow_port": 0}
    printed = operator.deploy("extract", **wish)
    assert "extract answers at http://127.0.0.1:8100" in printed and "one request took" in printed
    (curl,) = re.findall(r"curl -sS \S+/run .*?}'", printed)
    told = json.loads(host.run("sh", "-c", curl.replace('\\"', '"')))
    assert told.get("status") == "completed", (curl, told)
    assert changed(operator.deploy("extract", **wish)) == 0
    operator.deploy("extract", state="absent", purge=True)
    assert "anvil-workflow" not in host.docker("ps", "--all") + host.docker("volume", "ls") + host.docker("network", "ls")


def succeed(name: str, chain: Chain, *words: str, **variables: Any) -> str:
    """Run a verb for a deployed workflow, assert that it succeeds, and return the output."""
    code, printed = chain.play(f"{name}.yml", *words, variables=variables)
    assert code == 0, printed[-6000:]
    return printed


@pytest.mark.usefixtures("linear")
def test_verbs_need_no_workflow_file(chain: Chain) -> None:
    listed = succeed("workflow_list", chain)
    (row,) = re.findall(r"^ +linear .*$", listed, re.MULTILINE)
    assert row.split()[:4] == ["linear", "running", "1.0.0", "1/1"] and "http://127.0.0.1:8100" in row
    code, printed = chain.play("status.yml")
    assert code == 0 and re.search(r"^ +linear +running +1.0.0 +1/1 .*http://127.0.0.1:8100", printed, re.MULTILINE), printed
    assert ask(8100, "POST", "/run", {"topic": "logs"}).status == 200
    logs = succeed("workflow_logs", chain, workflow_project_name="linear", tail=5)
    assert "anvil-workflow-linear !" in logs and "path=/run status=200" in logs

    for words, count in ((["--check"], 1), ([], 1), ([], 0)):
        assert changed(succeed("workflow_stop", chain, *words, workflow_project_name="linear")) == count
    with pytest.raises(OSError):
        ask(8100, "GET", "/livez", timeout=5)
    assert re.search(r"^ +linear +stopped +1.0.0 +0/1 ", succeed("workflow_list", chain), re.MULTILINE)
    chain.bed.docker("rm", "anvil-workflow-linear")  # as a run that was killed while it replaced the server
    for words, count in ((["--check"], 1), ([], 1), ([], 0)):
        assert changed(succeed("workflow_start", chain, *words, workflow_project_name="linear")) == count
        assert words or ask(8100, "GET", "/readyz").status == 200
    assert changed(chain.deploy("linear", mlflow_port=0)) == 0

    code, printed = chain.play("workflow_stop.yml", variables={"workflow_project_name": "liner"})
    assert code and "No host has a workflow" in printed and "linear" in printed
    code, printed = chain.play("workflow_remove.yml", variables={"workflow_project_name": "linear", "purge": True})
    assert code and "confirm=true" in printed and ask(8100, "GET", "/livez").status == 200
    chain.bed.docker("kill", "anvil-workflow-linear")  # as a run that was killed between stop and removal
    for words, count in ((["--check"], 1), ([], 1), ([], 0)):
        assert changed(succeed("workflow_remove", chain, *words, workflow_project_name="linear")) == count
    assert "removed; its data is kept in anvil-workflow-linear-data" in succeed("workflow_list", chain)
    succeed("workflow_remove", chain, workflow_project_name="linear", purge=True, confirm=True)
    assert "linear" not in succeed("workflow_list", chain)


def test_a_log_is_followed_while_it_is_written(chain: Chain) -> None:
    """A stand-in for a server: a container with the labels of one, which writes a line each second."""
    labels = {"anvil.serving.workflow": "talker", "com.docker.compose.project": "anvil-workflow-talker"}
    words = [word for name, value in labels.items() for word in ("--label", f"{name}={value}")]
    script = "for i in 1 2 3; do echo line-$i of the secret $KEY_TOKEN; sleep 1; done"
    run = ["run", "--detach", "--name", "anvil-workflow-talker", "--env", "KEY_TOKEN=hunter2-hunter2", *words]
    chain.bed.docker(*run, "--label", "com.docker.compose.service=server", "anvil.local/base:1", "sh", "-c", script)
    try:
        printed = succeed("workflow_logs", chain, workflow_project_name="talker", follow="60s")
    finally:
        chain.bed.docker("rm", "--force", "anvil-workflow-talker")
    assert [printed.count(f"anvil-workflow-talker | line-{number} ") for number in (1, 2, 3)] == [1, 1, 1], printed
    assert "hunter2" not in printed and "talker is stopped" in printed
