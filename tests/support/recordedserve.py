"""The service and container of a recorded serve (Docker Engine 26.1.5, llama-server), for tests of drift and decisions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Mount, Service
from ansible_collections.anvil.serving.plugins.module_utils.serves.drift import Change, diff_service
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import observe_container, observe_image

RECORDED = json.loads((Path(__file__).parents[1] / "unit" / "data" / "engine-26.1.5-llama.json").read_text())
PROJECT = "anvil-serves"
SECRETS = {"TOK": "abc$def"}


def wanted(**fields: Any) -> Service:
    """The service that the recorded container was made of."""
    labels = {k: v for k, v in RECORDED["container"]["Config"]["Labels"].items() if k.startswith("anvil.serving.")}
    args = ("--model", "/models/heavy.gguf", "--alias", "heavy", "--host", "0.0.0.0", "--port", "30002")
    service = Service(
        name="heavy",
        container="t-heavy",
        image="anvil.local/llama-server:1",
        command=(*args, "-c", "1024", "-t", "1"),
        environment={"A": "1"},
        env_files=("env/heavy.env",),
        ports=(("127.0.0.1", 30002, "30002/tcp"),),
        mounts=(Mount("bind", "/tmp/testbed/models", "/models", True),),
        networks=("anvil",),
        ipc="host",
        shm_bytes=1 << 30,
        restart="unless-stopped",
        read_only=True,
        tmpfs=("/tmp",),
        init=True,
        cap_drop=("ALL",),
        security_opt=("no-new-privileges:true",),
        labels=labels,
    )
    return replace(service, **fields)


def compare(service: Service, container: dict[str, Any] | None = None, **kwargs: Any) -> list[Change]:
    seen = observe_container(container or RECORDED["container"])
    image = observe_image(RECORDED["image"])
    return diff_service(service, kwargs.get("secrets", SECRETS), seen, image, kwargs.get("wanted_image", image))
