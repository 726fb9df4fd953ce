"""Simulated NVIDIA container hook.

dockerd registers its own `nvidia` device driver if a program of this name is on its PATH at start; runc then calls the program
with "prestart" and the container's state on stdin. As with the real hook, an unknown device fails the start. Each request is
appended to $FAKE_NVIDIA_LOG, one JSON object per line, so that a test can check it.
"""

import csv
import json
import os
import shutil
import sys

TABLE = os.environ.get("FAKE_GPUS", "/etc/fake-nvidia/gpus.csv")
LOG = os.environ.get("FAKE_NVIDIA_LOG", "/var/log/fake-nvidia-hook.log")


def read_spec(state):
    with open(os.path.join(state["bundle"], "config.json")) as f:
        return json.load(f)


def read_gpus():
    with open(TABLE) as f:
        return [[cell.strip() for cell in row] for row in csv.reader(f) if row and not row[0].startswith("#")]


def mig_uuids(gpu):
    return [device.split("=")[1] for device in gpu[8].split()] if len(gpu) > 8 else []


def main():
    if sys.argv[1:2] != ["prestart"]:
        return
    state = json.load(sys.stdin)
    spec = read_spec(state)
    env = dict(e.split("=", 1) for e in spec["process"]["env"] if "=" in e)
    wanted = env.get("NVIDIA_VISIBLE_DEVICES", "")
    record = {
        "id": state["id"],
        "NVIDIA_VISIBLE_DEVICES": wanted,
        "capabilities": env.get("NVIDIA_DRIVER_CAPABILITIES"),
    }
    with open(LOG, "a") as f:
        f.write(json.dumps(record) + "\n")

    gpus = read_gpus()
    names = [] if wanted in ("", "all", "none", "void") else wanted.split(",")
    for name in names:
        if not any(name in (gpu[0], gpu[1], *mig_uuids(gpu)) for gpu in gpus):
            sys.exit(f"nvidia-container-cli: device error: {name}: unknown device: unknown")

    # The real hook mounts nvidia-smi and the devices. This one copies nvidia-smi and a table of only those devices: the variable
    # would not be enough, because Docker sets it for the main process and not for `docker exec`.
    given = (
        gpus
        if wanted == "all"
        else [gpu for gpu in gpus if gpu[0] in names or gpu[1] in names or set(names) & set(mig_uuids(gpu))]
    )
    if given:
        root = os.path.join(state["bundle"], spec["root"]["path"])
        os.makedirs(os.path.join(root, "etc/fake-nvidia"), exist_ok=True)
        with open(os.path.join(root, "etc/fake-nvidia/gpus.csv"), "w") as f:
            f.writelines(", ".join(gpu) + "\n" for gpu in given)
        os.makedirs(os.path.join(root, "usr/bin"), exist_ok=True)
        shutil.copy(shutil.which("nvidia-smi"), os.path.join(root, "usr/bin/nvidia-smi"))


main()
