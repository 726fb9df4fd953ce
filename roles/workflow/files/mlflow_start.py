"""Start MLflow's server with the settings in its environment: one process, no job runners, a password if a file has one.

MLFLOW_DATA       folder of database and artifacts (/data)          MLFLOW_PORT             port (5000)
MLFLOW_HOSTS      allowed host names of clients, comma-separated    MLFLOW_PASSWORD_FILE    password of the user admin
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

data, port = os.environ.get("MLFLOW_DATA", "/data"), os.environ.get("MLFLOW_PORT", "5000")
hosts = [name for name in os.environ.get("MLFLOW_HOSTS", "").split(",") if name]
arguments = ["server", "--host", "0.0.0.0", "--port", port, "--workers", "1", "--serve-artifacts"]
arguments += ["--backend-store-uri", f"sqlite:///{data}/mlflow.db", "--artifacts-destination", f"{data}/artifacts"]
arguments += ["--allowed-hosts", ",".join([*hosts, "localhost:*", "127.0.0.1:*"])]
environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
Path(data).mkdir(parents=True, exist_ok=True)

password_file = os.environ.get("MLFLOW_PASSWORD_FILE")
if password_file:
    password = Path(password_file).read_text(encoding="utf-8").strip()
    # The hash of the password takes a quarter of a second; without the cache every request pays for it.
    settings = f"""[mlflow]
default_permission = READ
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

os.execve(sys.executable, [sys.executable, "-m", "mlflow", *arguments], environment)  # noqa: S606 - no shell is needed
