"""Replicas of a workflow behind the edge, with one job store in PostgreSQL: rolling updates and kills under load."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from workflowsite import Chain, Load, ask, changed, wait_ended, wait_for

PORT = 8102
NAME = "anvil-workflow-twin"
# A frozen tier blocks runs here. A router that checks the tier would answer them with 503 after 2 s.
TIERS = [{"id": name, "serve": name, "health_path": False} for name in ("heavy", "fast")]
SITE = {
    "anvil_router": {"image": "anvil.local/router:0.13.2", "publish": "127.0.0.1:8000", "token": "router_token", "tiers": TIERS}
}
WISH = {"mlflow_port": 0, "replicas": 2, "workflow_project_name": "twin", "port": PORT}
ALONE = {**WISH, "replicas": 1}
UNASKED = {"workflow_verify": False}

ASK_DATABASE = """
import asyncio, asyncpg, os

async def go():
    secret = open("/run/secrets/jobs_client_password").read().strip()
    found = await asyncpg.connect(os.environ["WORKFLOW_JOBS"], password=secret)
    rights = "SELECT rolsuper OR rolcreaterole OR rolcreatedb FROM pg_roles WHERE rolname = current_user"
    print(await found.fetchval(rights))
    for text in ("COPY jobs TO PROGRAM 'id'", "SELECT pg_read_file('/etc/passwd')", "CREATE ROLE other"):
        try:
            await found.execute(text)
            print(text)
        except asyncpg.InsufficientPrivilegeError:
            print("refused")

asyncio.run(go())
"""


@pytest.fixture(scope="module")
def moved(chain: Chain) -> list[str]:
    """Add a second server while runs are under way. Returns the locations of one ended job and of those runs."""
    chain.deploy("linear", **ALONE)
    locations = [submit(0, "alone")]
    wait_ended(PORT, locations[0])
    chain.bed.docker("pause", "anvil-heavy")
    try:
        locations += [submit(number, "alone") for number in (1, 2, 3)]
        predicted = chain.deploy("linear", "--check", **WISH, **UNASKED)
        printed = chain.deploy("linear", **WISH, **UNASKED)
    finally:
        chain.bed.docker("unpause", "anvil-heavy")
    # the four jobs, and the request of the first deployment
    assert changed(predicted) and "5 jobs were moved" in printed, (predicted[-2000:], printed[-2000:])
    return locations


@pytest.fixture(scope="module")
def twin(chain: Chain, moved: list[str]) -> Chain:
    return chain


def submit(number: int, word: str) -> str:
    """Start an asynchronous run and return the location of its status."""
    headers = {"Prefer": "respond-async", "Idempotency-Key": f"{word}-{number}"}
    reply = ask(PORT, "POST", "/run", {"topic": f"{word} {number}"}, headers)
    assert reply.status == 202, reply
    return reply.headers["location"]


def from_inside(chain: Chain, container: str, path: str) -> str:
    code = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000{path}').read().decode())"
    return chain.bed.docker("exec", container, "python3", "-c", code)


def test_jobs_are_moved_when_a_second_server_is_added(twin: Chain, moved: list[str]) -> None:
    jobs = [wait_ended(PORT, location) for location in moved]
    assert {job["status"] for job in jobs} == {"completed"} and all(len(job["nodes"]) == 2 for job in jobs), jobs
    again = ask(PORT, "POST", "/run", {"topic": "alone 1"}, {"Idempotency-Key": "alone-1"})
    assert again.body["job_id"] == jobs[1]["job_id"]
    assert f"{NAME}-data" not in twin.bed.docker("volume", "ls")


def test_a_second_run_changes_nothing_and_only_the_edge_is_published(twin: Chain) -> None:
    started = twin.bed.started()
    assert changed(twin.deploy("linear", **WISH)) == 0 and twin.bed.started() == started
    ports = twin.bed.docker("ps", "--filter", f"name={NAME}", "--format", "{{.Names}} {{.Ports}}").splitlines()
    assert [line.split()[0] for line in ports if "->" in line] == [f"{NAME}-edge"]


def test_the_servers_are_no_superuser_and_the_database_has_no_way_out(twin: Chain) -> None:
    said = twin.bed.docker("exec", f"{NAME}-1", "python3", "-c", ASK_DATABASE).split()
    assert said == ["False", "refused", "refused", "refused"], said
    mounts = twin.bed.docker("inspect", "--format", "{{json .Mounts}}", f"{NAME}-1")
    assert "jobs_client_password" in mounts and "/jobs_password" not in mounts
    form = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}"
    networks = {name: twin.bed.docker("inspect", "--format", form, f"{NAME}-{name}").split() for name in ("edge", "jobs", "1")}
    assert networks == {"edge": [NAME], "jobs": [f"{NAME}-jobs"], "1": ["anvil", NAME, f"{NAME}-jobs"]}
    assert twin.bed.docker("network", "inspect", "--format", "{{.Internal}}", f"{NAME}-jobs").strip() == "true"


def test_any_replica_returns_the_status_of_any_job(twin: Chain) -> None:
    for location in [submit(number, "status") for number in range(6)]:
        wait_ended(PORT, location)
        told = [json.loads(from_inside(twin, f"{NAME}-{replica}", location)) for replica in (1, 2)]
        assert told[0] == told[1] and told[0]["status"] == "completed"


def test_no_request_fails_during_an_update_under_load(twin: Chain) -> None:
    load = Load(PORT).start()
    time.sleep(1)
    before = twin.bed.started()
    printed = twin.deploy("linear", **{**WISH, "timeout": 25, "replicas": 3})
    load.stop()
    after = twin.bed.started()
    replaced = {name for name in after if after[name] != before.get(name)}
    assert replaced == {f"{NAME}-1", f"{NAME}-2", f"{NAME}-3"} and changed(printed) >= 1
    assert not load.failures, (load.done, load.failures[:5])
    assert load.done > 20
    print(f"{load.done} requests while both replicas were replaced, none failed")
    jobs = [wait_ended(PORT, location) for location in load.locations[-20:]]
    assert {job["status"] for job in jobs} == {"completed"}


def test_a_replica_that_is_no_longer_configured_is_removed_without_failed_requests(twin: Chain) -> None:
    assert f"{NAME}-3" in twin.bed.docker("ps", "--format", "{{.Names}}")
    load = Load(PORT).start()
    predicted, printed = twin.deploy("linear", "--check", **WISH), twin.deploy("linear", **WISH)
    load.stop()
    assert changed(predicted) == changed(printed) == 1
    assert f"{NAME}-3" not in twin.bed.docker("ps", "--all", "--format", "{{.Names}}")
    assert not load.failures, load.failures[:5]


def test_the_key_changes_under_load(twin: Chain) -> None:
    """Both keys, then the clients change, then the new key alone. The servers are replaced one by one."""
    old, new = "old-" + "k" * 24, "new-" + "k" * 24
    load = Load(PORT, key=old).start()
    twin.deploy("linear", **WISH, **UNASKED, workflow_api_key=f"{old}\n{new}")
    load.key, done = new, load.done
    wait_for("clients present the new key", lambda: load.done > done + 12)
    printed = twin.deploy("linear", **WISH, **UNASKED, workflow_api_key=new)
    load.stop()
    assert changed(printed) and not load.failures and load.done > 30, (load.done, load.failures[:5])
    replies = [ask(PORT, "POST", "/run", {"topic": "x"}, {"Authorization": "Bearer " + key}).status for key in (old, new)]
    assert replies == [401, 200] and "k" * 24 not in printed
    twin.deploy("linear", **WISH, **UNASKED)


def test_the_other_replica_keeps_answering_when_a_new_version_does_not_become_ready(twin: Chain) -> None:
    before = twin.bed.started()
    # The model's host does not resolve: the new replica is alive and never ready.
    code, printed = twin.try_deploy("linear", **{**WISH, "model_url": "http://nowhere.invalid/v1", "workflow_ready_timeout": 8})
    assert code and "the new replica did not get ready" in printed, printed[-3000:]
    assert twin.bed.started()[f"{NAME}-2"] == before[f"{NAME}-2"]
    assert ask(PORT, "POST", "/run", {"topic": "still"}).status == 200
    twin.deploy("linear", **WISH)
    assert ask(PORT, "POST", "/run", {"topic": "again"}).status == 200


@pytest.mark.parametrize("victim", ["1", "jobs"])
def test_a_kill_of_a_replica_or_the_database_during_runs_loses_no_job(twin: Chain, victim: str) -> None:
    locations = [submit(number, f"kill-{victim}") for number in range(30)]
    twin.bed.docker("kill", "--signal", "KILL", f"{NAME}-{victim}")
    time.sleep(1)
    twin.bed.docker("start", f"{NAME}-{victim}")
    jobs = [wait_ended(PORT, location, 90) for location in locations]
    assert [job["status"] for job in jobs] == ["completed"] * 30
    # each node ran once: a node that ended before the kill did not run again
    assert all(len(job["nodes"]) == 2 for job in jobs), jobs
    wait_for("all ready", lambda: ask(PORT, "GET", "/readyz").status == 200)


def test_a_killed_edge_restarts_by_itself_and_no_job_is_lost(twin: Chain) -> None:
    locations = [submit(number, "edge") for number in range(10)]
    load = Load(PORT).start()
    before = twin.bed.started()
    os.kill(int(twin.bed.docker("inspect", "--format", "{{.State.Pid}}", f"{NAME}-edge")), signal.SIGKILL)
    wait_for("another edge", lambda: twin.bed.started()[f"{NAME}-edge"] != before[f"{NAME}-edge"])
    wait_for("the edge", lambda: ask(PORT, "GET", "/readyz").status == 200)
    done = load.done
    wait_for("clients go on", lambda: load.done > done + 10)
    load.stop()
    assert {name for name, start in twin.bed.started().items() if start != before.get(name)} == {f"{NAME}-edge"}
    # Every job that a client got a location for exists, and a client without an answer may repeat its request with its key.
    assert {wait_ended(PORT, location)["status"] for location in [*locations, *load.locations[-10:]]} == {"completed"}
    assert (
        f"/status/{ask(PORT, 'POST', '/run', {'topic': 'edge 3'}, {'Idempotency-Key': 'edge-3'}).body['job_id']}" == locations[3]
    )


def test_absent_leaves_the_data_and_one_server_takes_it_over(twin: Chain, moved: list[str]) -> None:
    form = '{{range .Mounts}}{{.Source}}{{"\\n"}}{{end}}'
    sources = twin.bed.docker("inspect", "--format", form, f"{NAME}-1").split()
    (password,) = [Path(source) for source in sources if source.endswith("jobs_client_password")]
    before = password.read_text()
    twin.deploy("linear", state="absent", workflow_project_name="twin")
    # A new password for the database (docs/workflow-deploy.md): the next deployment generates one.
    password.unlink()
    names = twin.bed.docker("ps", "--all", "--format", "{{.Names}}")
    assert (
        NAME not in names and NAME not in twin.bed.docker("network", "ls") and f"{NAME}-jobs" in twin.bed.docker("volume", "ls")
    )
    code, printed = twin.try_deploy("linear", **ALONE)
    assert (
        code and "jobs in a database that does not run" in printed and "with the replicas that it had, then with one" in printed
    )
    twin.deploy("linear", **WISH)
    assert ask(PORT, "GET", moved[0]).body["status"] == "completed" and password.read_text() not in ("", before)
    predicted, printed = twin.deploy("linear", "--check", **ALONE), twin.deploy("linear", **ALONE)
    assert changed(predicted) == changed(printed) and "jobs were moved" in printed
    assert ask(PORT, "GET", moved[0]).body["status"] == "completed"
    assert twin.bed.docker("ps", "--filter", f"name={NAME}", "--format", "{{.Names}}") == NAME
    assert f"{NAME}-jobs" not in twin.bed.docker("volume", "ls") and changed(twin.deploy("linear", **ALONE)) == 0
    twin.deploy("linear", state="absent", purge=True, workflow_project_name="twin")
    assert NAME not in twin.bed.docker("volume", "ls")
