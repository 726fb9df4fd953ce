"""Compile llama.cpp into an image with the role `images`, from the source distribution of llama-cpp-python.

    compiled.py fetch           download the source, outside the bed (inside it there is no network)
    compiled.py build [native]  build anvil.local/llama:llama-VERSION (or llama-native), inside the bed; minutes, once

The build downloads the archive from a server on loopback, as from a mirror. The built image is saved next to the archive so
that another bed can load it; the role rebuilds it if its content is out of date.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from bed import Bed

REPO = Path(__file__).resolve().parents[2]
VERSION = "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
FOLDER = REPO / ".cache" / "llama.cpp"
ARCHIVE = FOLDER / f"llama_cpp_python-{VERSION}.tar.gz"
PORT = 18098  # fixed, because the URL is part of the image's content hash
IMAGE = f"anvil.local/llama:llama-{VERSION}"
NATIVE = "anvil.local/llama:llama-native"


def fetch() -> None:
    """Download the archive, if it is not there, and check it."""
    if not ARCHIVE.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        options = ["--quiet", "--no-deps", "--no-binary", "llama-cpp-python", "--dest", str(FOLDER)]
        subprocess.run([sys.executable, "-m", "pip", "download", *options, f"llama-cpp-python=={VERSION}"], check=True)
    if hashlib.sha256(ARCHIVE.read_bytes()).hexdigest() != SHA256:
        sys.exit(f"{ARCHIVE}: the checksum is not the pinned one; remove the file and run compiled.py fetch again")


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server without a log."""

    def log_message(self, *_words: object) -> None:
        pass


def serve_folder(folder: Path, port: int = 0) -> http.server.ThreadingHTTPServer:
    """Start a file server on loopback in a thread."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def play_images(*entries: dict[str, object], **more: object) -> subprocess.CompletedProcess[str]:
    """Run the role `images` with these entries on this machine; more: further variables of the role."""
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "roles": [{"role": "anvil.serving.images"}]}
    variables = {**more, "images_list": entries, "ansible_python_interpreter": sys.executable}
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
        "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
        "ANSIBLE_COLLECTIONS_PATH": str(REPO / ".cache" / "collections"),
    }
    with tempfile.TemporaryDirectory() as name:
        playbook = Path(name) / "play.yml"
        playbook.write_text(json.dumps([play]))
        argv = [str(Path(sys.executable).with_name("ansible-playbook")), str(playbook), "-e", json.dumps(variables)]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)


def build(native: bool = False) -> str:
    """Build the image, if it is missing or out of date, and return its name."""
    bed, image, port = Bed(), NATIVE if native else IMAGE, PORT + native
    saved = FOLDER / f"{image.rpartition(':')[2]}.tar"
    if saved.exists() and not bed.docker("images", "--quiet", image):
        bed.docker("load", "--quiet", "--input", str(saved))
    with serve_folder(FOLDER, port):
        url = f"http://127.0.0.1:{port}/{ARCHIVE.name}"
        source = {"url": url, "sha256": SHA256, "folder": "vendor/llama.cpp"}
        llama = {"archive": source, "build_base": "anvil.local/builder:1", "build_packages": [], "native": native}
        tag = "native" if native else VERSION
        done = play_images({"name": "anvil.local/llama", "stack": "llama_cpp", "tag": tag, "base": "scratch", "llama": llama})
    if done.returncode:
        sys.exit(done.stdout[-6000:] + done.stderr[-2000:])
    if "changed=1" in done.stdout or not saved.exists():
        half = saved.with_suffix(".half")
        bed.docker("save", "--output", str(half), *json.loads(bed.docker("inspect", "--format", "{{json .RepoTags}}", image)))
        half.rename(saved)
    return image


def main() -> None:
    """The command line."""
    match sys.argv[1:]:
        case ["fetch"]:
            fetch()
        case ["build", *words]:
            if not Bed().is_inside():
                sys.exit("compiled.py build runs inside the bed: bed.py run -- compiled.py build")
            print(build("native" in words))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
