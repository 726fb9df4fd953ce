"""Start MLflow's server with the settings in its environment: one process, no job runners, a password if a file has one.

MLFLOW_DATA       folder of database and artifacts (/data)          MLFLOW_PORT             port (5000)
MLFLOW_HOSTS      allowed host names of clients, comma-separated    MLFLOW_PASSWORD_FILE    password of the user admin
MLFLOW_EXPERIMENT experiment of the workflow                        MLFLOW_CLIENT_PASSWORD_FILE  password of the user workflow
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

CLIENT = "workflow"

data, port = os.environ.get("MLFLOW_DATA", "/data"), os.environ.get("MLFLOW_PORT", "5000")
hosts = [name for name in os.environ.get("MLFLOW_HOSTS", "").split(",") if name]
arguments = ["server", "--host", "0.0.0.0", "--port", port, "--workers", "1", "--serve-artifacts"]
arguments += ["--backend-store-uri", f"sqlite:///{data}/mlflow.db", "--artifacts-destination", f"{data}/artifacts"]
arguments += ["--allowed-hosts", ",".join([*hosts, "localhost:*", "127.0.0.1:*"])]
environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
experiment = os.environ.get("MLFLOW_EXPERIMENT", "")
Path(data).mkdir(parents=True, exist_ok=True)


def provision(password: str, client_password: str) -> None:
    """Give the workflow a user of its own, who may use its experiment and nothing else. The server may still be starting."""
    admin = base64.b64encode(f"admin:{password}".encode()).decode()

    def request(method: str, path: str, values: dict[str, str]) -> tuple[int, dict[str, Any]]:
        url, body = f"http://127.0.0.1:{port}/api/{path}", None
        if method == "GET":
            url += "?" + urllib.parse.urlencode(values)
        else:
            body = json.dumps(values).encode()
        headers = {"Authorization": f"Basic {admin}", "Content-Type": "application/json"}
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method), timeout=10) as answer:
                return answer.status, json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            return error.code, {}

    def try_all() -> str:
        """What failed; empty where all is as it must be."""
        status, _unused = request("GET", "2.0/mlflow/users/get", {"username": CLIENT})
        change = ("PATCH", "2.0/mlflow/users/update-password") if status == 200 else ("POST", "2.0/mlflow/users/create")
        status, _unused = request(*change, {"username": CLIENT, "password": client_password})
        if status != 200:
            return f"user: HTTP {status}"
        status, found = request("GET", "2.0/mlflow/experiments/get-by-name", {"experiment_name": experiment})
        if status == 404:
            status, found = request("POST", "2.0/mlflow/experiments/create", {"name": experiment})
        if status != 200:
            return f"experiment: HTTP {status}"
        number = str(found.get("experiment_id") or found["experiment"]["experiment_id"])
        # MANAGE, because it deletes traces.
        grant = {"username": CLIENT, "resource_type": "experiment", "resource_id": number, "permission": "MANAGE"}
        status, _unused = request("POST", "3.0/mlflow/users/permissions/grant", grant)
        return "" if status == 200 else f"permission: HTTP {status}"

    reason = ""
    for _unused in range(600):
        try:
            reason = try_all()
        except (OSError, ValueError) as error:
            reason = str(error)
        if not reason:
            return
        time.sleep(1)
    print(f"the user {CLIENT} could not be set up: {reason}", file=sys.stderr)


password_file = os.environ.get("MLFLOW_PASSWORD_FILE")
if password_file:
    password = Path(password_file).read_text(encoding="utf-8").strip()
    # The hash of the password takes a quarter of a second; without the cache every request pays for it.
    settings = f"""[mlflow]
default_permission = NO_PERMISSIONS
database_uri = sqlite:///{data}/auth.db
admin_username = admin
admin_password = {password}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
"""
    path = Path("/tmp/auth.ini")
    path.touch(mode=0o600)
    path.write_text(settings, encoding="utf-8")
    environment.update(MLFLOW_AUTH_CONFIG_PATH=str(path), MLFLOW_FLASK_SERVER_SECRET_KEY=secrets.token_hex(32))
    arguments += ["--app-name", "basic-auth"]
    client_file = os.environ.get("MLFLOW_CLIENT_PASSWORD_FILE")
    # Two forks: the server never sees the end of the process that sets up its user.
    if client_file and (child := os.fork()) == 0:
        if os.fork() == 0:
            provision(password, Path(client_file).read_text(encoding="utf-8").strip())
        os._exit(0)
    elif client_file:
        os.waitpid(child, 0)

os.execve(sys.executable, [sys.executable, "-m", "mlflow", *arguments], environment)  # noqa: S606 - no shell is needed
