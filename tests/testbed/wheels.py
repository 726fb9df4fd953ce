"""Download what tests build images from, outside the bed (inside it there is no network): wheels, and llama.cpp's RPC server.

usage: wheels.py     prints the folder that holds them
"""

from __future__ import annotations

import sys

import rpcserver
from bed import REPO, Bed

sys.path.insert(0, str(REPO / ".cache" / "collections"))

from ansible_collections.anvil.serving.plugins.module_utils.images.wheels import WheelSet, fetch_wheels

FOLDER = REPO / ".cache" / "workflow-wheels"
FILES = REPO / "roles" / "workflow" / "files"
BASE = "anvil.local/base:1"


def main() -> None:
    """Download the wheels of the server, with and without PostgreSQL, and those of MLflow; and the RPC server."""
    rpcserver.fetch()
    version = Bed().docker("run", "--rm", BASE, "python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    server, postgres, mlflow = (
        (FILES / name).read_text() for name in ("requirements.txt", "requirements-postgres.txt", "mlflow-requirements.txt")
    )
    for name, requirements in (("server", server), ("server", server + postgres), ("mlflow", mlflow)):
        fetch_wheels(WheelSet(name, requirements, version, "x86_64"), str(FOLDER), False)
    print(FOLDER)


if __name__ == "__main__":
    main()
