"""The RPC server of llama.cpp with the llama-server of the same build, from Debian's packages.

    rpcserver.py fetch     download the packages, outside the bed (inside it there is no network)

`build` makes anvil.local/llama-rpc:1 of them, on the libraries of anvil.local/llama-server:1. Debian has the RPC backend in a
package of its own, and the server in another. All parts come from one release, because they load each other.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

from bed import REPO, Bed

FOLDER = REPO / ".cache" / "llama-rpc"
ROOT = FOLDER / "root"
IMAGE = "anvil.local/llama-rpc:1"
PACKAGES = ("libggml0", "libggml0-backend-rpc", "libllama0", "llama.cpp-tools", "llama.cpp-tools-extra")
SUITE = "forky"  # as in bootstrap/roots.sh
KIND = f". {REPO / 'bootstrap' / 'lib.sh'}; os_release ID"
MIRROR = f". {REPO / 'bootstrap' / 'lib.sh'}; distribution_mirror"
DOCKERFILE = """FROM anvil.local/llama-server:1
COPY . /
USER 0:0
RUN ln -s /usr/libexec/*/llama/bin/ggml-rpc-server /usr/bin/ggml-rpc-server
USER 10001:10001
"""


def _ask(script: str) -> str:
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def fetch() -> None:
    """Download the packages, if they are not there, and unpack what the two servers need. Other distributions have none."""
    if ROOT.exists() or _ask(KIND) != "debian":
        return
    half = FOLDER / "half"
    shutil.rmtree(half, ignore_errors=True)
    for name in ("lists/partial", "cache/archives/partial"):
        (FOLDER / name).mkdir(parents=True, exist_ok=True)
    sources = FOLDER / "sources.list"
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    sources.write_text(f"deb [signed-by={keyring}] {_ask(MIRROR)} {SUITE} main\n")
    options = {
        "Dir::State::lists": FOLDER / "lists",
        "Dir::Cache": FOLDER / "cache",
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "/dev/null",
        "Acquire::Languages": "none",
        "Acquire::Check-Valid-Until": "false",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "--quiet=2", *(f"--option={key}={value}" for key, value in options.items())]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "download", *PACKAGES], cwd=FOLDER, check=True)
    for package in sorted(FOLDER.glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", package, half], check=True)
        package.unlink()
    shutil.rmtree(half / "usr" / "share", ignore_errors=True)
    for name in ("lists", "cache"):
        shutil.rmtree(FOLDER / name)
    half.rename(ROOT)


def build(bed: Bed) -> str:
    """The name of the image, built if the bed does not have it."""
    if not bed.docker("images", "--quiet", IMAGE):
        (FOLDER / "Dockerfile").write_text(DOCKERFILE)
        bed.docker(
            "buildx",
            "build",
            "--quiet",
            "--load",
            "--network=none",
            "--tag",
            IMAGE,
            "--file",
            str(FOLDER / "Dockerfile"),
            str(ROOT),
        )
    return IMAGE


if __name__ == "__main__":
    if sys.argv[1:] != ["fetch"]:
        sys.exit(__doc__)
    fetch()
