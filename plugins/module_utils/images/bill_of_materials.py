# SPDX-License-Identifier: GPL-3.0-or-later
"""The bill of materials of an image that was built: the packages in it, and what it was built from, as CycloneDX 1.5."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import uuid
from datetime import datetime, timezone
from typing import Any, Dict, List, Mapping, Sequence, Tuple
from urllib.parse import quote

from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.core.program_source import read_source
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.side_containers import confine
from ansible_collections.anvil.serving.plugins.module_utils.images.recipe import Recipe

DPKG_STATUS = "/var/lib/dpkg/status"
MOST_BYTES = 32 * 1024 * 1024
Package = Tuple[str, str, str]


def list_packages(docker: DockerEngine, reference: str) -> List[Package]:
    """(kind, name, version) of every package in an image; kind is ``deb`` or ``pypi``. Without a network and without rights."""
    from ansible_collections.anvil.serving.plugins.module_utils.images.programs import list_packages as program

    ran = None
    try:
        ran = docker.run_side_container(
            reference, ["-I", "-B", "-c", read_source(program)], entrypoint=["python3"], host_config=confine(), user="0:0"
        )
    except AnvilError as exc:
        if "executable file not found" not in exc.as_text() and "no such file" not in exc.as_text():
            raise
    if ran is not None and ran.exit_code == 0:
        return [(str(kind), str(name), str(version)) for kind, name, version in json.loads(ran.output.replace("\n", ""))]
    return _read_dpkg(docker, reference)


def _read_dpkg(docker: DockerEngine, reference: str) -> List[Package]:
    """The distribution's packages of an image without Python, from a container that is never started."""
    created = docker.create_container(reference, ["true"], host_config=confine())
    try:
        found = docker.read_archive(created, DPKG_STATUS, MOST_BYTES)
    finally:
        docker.remove_container(created)
    if found is None:
        return []
    with tarfile.open(fileobj=io.BytesIO(found[1])) as tar:
        content = tar.extractfile(tar.getmembers()[0])
        text = content.read().decode("utf-8", "replace") if content else ""
    packages = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(" "))
        if fields.get("Package"):
            packages.append(("deb", fields["Package"], fields.get("Version", "")))
    return packages


def describe_bill(
    reference: str, made: Mapping[str, Any], base: Mapping[str, Any], recipe: Recipe, content: str, packages: Sequence[Package]
) -> Dict[str, Any]:
    """The document. made, base: the image and its base, as the Docker Engine describes them."""

    def digest(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()

    origin = {
        "anvil:content": content,
        "anvil:base": recipe.base,
        "anvil:base_id": str(base.get("Id") or ""),
        "anvil:base_digests": " ".join(sorted(str(one) for one in base.get("RepoDigests") or ())),
        "anvil:dockerfile_sha256": digest(recipe.dockerfile),
        "anvil:network": recipe.network,
        "anvil:platform": recipe.platform,
        **{"anvil:build_arg:" + name: value for name, value in sorted(recipe.build_args.items())},
        **{"anvil:file_sha256:" + path: digest(text) for path, text in sorted(recipe.files.items())},
        "anvil:build_contexts": " ".join(sorted(recipe.folders)),
    }
    components = [
        {
            "type": "library",
            "name": name,
            "version": version,
            "purl": "pkg:{0}/{1}@{2}".format("deb/debian" if kind == "deb" else kind, quote(name.lower()), quote(version)),
        }
        for kind, name, version in sorted(set(packages))
    ]
    for one in components:
        one["bom-ref"] = one["purl"]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": "urn:uuid:{0}".format(uuid.uuid5(uuid.NAMESPACE_URL, "{0} {1}".format(reference, made.get("Id")))),
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {"type": "container", "name": reference, "version": str(made.get("Id") or ""), "bom-ref": reference},
            "properties": [{"name": name, "value": value} for name, value in origin.items() if value],
        },
        "components": components,
    }


def write_bill(
    docker: DockerEngine, folder: str, reference: str, base: Mapping[str, Any], recipe: Recipe, content: str
) -> Tuple[str, List[str]]:
    """Write the bill of an image that was just built; returns its path, and warnings. The image is good without it."""
    path = os.path.join(folder, reference.rpartition("/")[2].replace(":", "_") + ".cdx.json")
    try:
        made = docker.inspect_image(reference) or {}
        bill = describe_bill(reference, made, base, recipe, content, list_packages(docker, reference))
        os.makedirs(folder, exist_ok=True)
        files.write_file(path, json.dumps(bill, indent=1) + "\n", 0o644)
    except (AnvilError, OSError, ValueError) as exc:
        why = exc.as_text() if isinstance(exc, AnvilError) else str(exc)
        return "", ["{0}: the list of its packages was not written: {1}".format(reference, why)]
    return path, []
