# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Serves whose image is for another processor: told before the pull, and refused once its program did not start here."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import tarfile
import urllib.request
from collections.abc import Iterator

import pytest
from bed import Bed, wait_until
from serving import LLAMA, Field, actions

OTHER = {"x86_64": "arm64"}.get(os.uname().machine, "amd64")
MACHINE = {"arm64": b"\xb7\x00", "amd64": b"\x3e\x00"}[OTHER]
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def import_image(bed: Bed, name: str, content: bytes, *changes: str) -> None:
    """Make an image of another platform from a tar archive."""
    more = [word for change in changes for word in ("--change", change)]
    argv = ["docker", "import", "--platform", f"linux/{OTHER}", *more, "-", name]
    subprocess.run(argv, input=content, check=True, capture_output=True, env={**os.environ, **bed.environment})


def foreign_program() -> bytes:
    """An archive with a program of the other processor: its ELF header is enough for the kernel to refuse it."""
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00" + MACHINE + b"\x01\x00\x00\x00" + bytes(40)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as out:
        member = tarfile.TarInfo("server")
        member.size, member.mode = len(header), 0o755
        out.addfile(member, io.BytesIO(header))
    return archive.getvalue()


@pytest.fixture
def registry(clean_bed: Bed) -> Iterator[str]:
    clean_bed.docker("run", "--detach", "--name", "registry", "anvil.local/registry:2")
    address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    found = clean_bed.docker("inspect", "--format", address, "registry")
    wait_until("the registry", lambda: socket.socket().connect_ex((found, 5000)) == 0)
    yield found + ":5000"


def write_index(registry: str, name: str) -> None:
    """Put an index into the registry that holds the image for the other processor only."""
    asked = urllib.request.Request(f"http://{registry}/v2/{name}/manifests/1", headers={"Accept": MANIFEST})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        digest, size = answer.headers["Docker-Content-Digest"], len(answer.read())
    row = {"mediaType": MANIFEST, "digest": digest, "size": size, "platform": {"os": "linux", "architecture": OTHER}}
    body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [row]}).encode()
    put = urllib.request.Request(f"http://{registry}/v2/{name}/manifests/index", body, {"Content-Type": INDEX}, method="PUT")
    urllib.request.urlopen(put, timeout=10).close()


def test_an_image_for_another_processor_is_refused_with_a_proof_and_told_without(field: Field, registry: str) -> None:
    bed, name = field.bed, f"{registry}/foreign"
    del field.serves["fast"]
    import_image(bed, f"{name}:1", foreign_program(), 'ENTRYPOINT ["/server"]')
    bed.docker("push", "--quiet", f"{name}:1")
    write_index(registry, "foreign")
    bed.docker("rmi", f"{name}:1")
    field.edit("heavy", image=f"{name}:index")
    for check in (True, False):
        refused = field.run(check=check)
        assert refused["failed"] and f"only for linux/{OTHER}" in refused["msg"] and "no matching manifest" in refused["msg"]
    assert not refused["changed"] and list(bed.started()) == ["registry"]

    # A single image is pulled: its label may be wrong. Its program then says what it is.
    field.edit("heavy", image=f"{name}:1")
    predicted = field.run(check=True)
    assert not predicted["failed"] and f"doubtful: serve heavy, image {name}:1" in str(predicted["warnings"]), predicted
    refused = field.run()
    assert refused["failed"] and "its program does not start here: exec /server: exec format error" in refused["msg"], refused
    assert list(bed.started()) == ["registry"] and refused["pulled"] == [f"{name}:1"]
    assert field.run(check=True)["failed"]

    # A wrong label: the program runs here.
    bed.docker("create", "--name", "own", LLAMA)
    content = subprocess.run(["docker", "export", "own"], check=True, capture_output=True, env={**os.environ, **bed.environment})
    bed.docker("rm", "own")
    entrypoint = bed.docker("image", "inspect", "--format", "{{json .Config.Entrypoint}}", LLAMA)
    import_image(bed, "anvil.test/mislabelled:1", content.stdout, f"ENTRYPOINT {entrypoint}")
    field.edit("heavy", image="anvil.test/mislabelled:1")
    done = field.run()
    assert not done["failed"] and "its program starts here" in str(done["warnings"]), done
    assert actions(field.run()) == {"heavy": ("none", [])}
    bed.docker("rmi", "--force", "anvil.test/mislabelled:1", f"{name}:1")
