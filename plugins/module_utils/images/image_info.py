# SPDX-License-Identifier: GPL-3.0-or-later
"""What an image on this host is: its size and processor, the Python in it, and whether its base was replaced."""

from __future__ import annotations

from typing import Any, Dict, Mapping

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import LABEL_BASE
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.engine_disk import EngineDisk
from ansible_collections.anvil.serving.plugins.module_utils.images.docker_cli import build_argv, run_program

MACHINES: Mapping[str, str] = {"amd64": "x86_64", "arm64": "aarch64"}
PRINT_VERSION = "import sys; print('%d.%d' % sys.version_info[:2])"


def is_fresh(docker: DockerEngine, name: str, base: str) -> bool:
    """Whether the image is on this host, and was built on the base of that name as it is now. A base that is gone counts as
    unchanged.
    """
    image, found = docker.inspect_image(name), docker.inspect_image(base)
    if image is None:
        return False
    built_on = (image.get("Config", {}).get("Labels") or {}).get(LABEL_BASE)
    return found is None or built_on in ("", None, found["Id"])


def describe_image(docker: DockerEngine, name: str, pull: bool, check: bool) -> Dict[str, Any]:
    """What anvil_image_info returns: what an image is, and which Python it has. pull: pull an image that is not on this host."""
    image = docker.inspect_image(name)
    pulled = image is None and pull
    if pulled and not check:
        code, text = run_program(
            build_argv(docker, "pull", "--quiet", name),
            1800,
            find_obstacle=EngineDisk(docker.docker_host, docker.info()).describe_shortage,
        )
        if code != 0:
            raise fail(
                "image {0} is not on this host and cannot be pulled".format(name),
                where=name,
                why=text.strip()[-500:],
                hint="load it from an archive: ansible-playbook playbooks/load_images.yml -e archive=FILE -e images={0}\n"
                "or build it; bootstrap/images.sh builds those of anvil.local".format(name),
            )
        image = docker.inspect_image(name)
    result: Dict[str, Any] = {
        "changed": pulled,
        "exists": image is not None,
        "image_id": None,
        "mb": 0.0,
        "machine": "",
        "python": "",
    }
    if image is None:
        return result
    result["image_id"] = image["Id"]
    result["mb"] = round(int(image["Size"]) / 1e6, 1)
    result["machine"] = MACHINES.get(str(image.get("Architecture")), str(image.get("Architecture")))
    result["python"] = _read_python(docker, name)
    return result


def _read_python(docker: DockerEngine, name: str) -> str:
    """The version of the image's python3, such as 3.11; empty where it has none."""
    host = {"cap_drop": ["ALL"], "network_mode": "none"}
    try:
        ran = docker.run_side_container(name, ["-I", "-c", PRINT_VERSION], entrypoint=["python3"], host_config=host)
    except AnvilError as exc:
        if "executable file not found" in exc.as_text():
            return ""
        raise
    return ran.output.strip() if ran.exit_code == 0 else ""
