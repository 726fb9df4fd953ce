"""The test-bed: a real Docker Engine of its own, simulated GPUs behind its real `nvidia` driver, and simulated hosts.

    bed.py up [IMAGE...]      start the Docker Engine and make its images (all of them, or those named)
    bed.py copy BED...        create beds with these names from the data of this bed
    bed.py run -- CMD...      run CMD in the bed's network with its Docker Engine: 127.0.0.1:PORT reaches published ports
    bed.py env                print the environment of `run` as shell exports (only `run` enters the network)
    bed.py images [IMAGE...]  make images
    bed.py down [--purge]     remove all containers and volumes, stop the Docker Engine; --purge removes its data too
    bed.py host-up NAME [IMAGE...]   start a simulated host with two GPUs and these images
    bed.py host-down NAME            remove a simulated host and its data

The bed has a data root, socket, containerd and network namespace of its own and never touches another Docker Engine. The
namespace holds only loopback and Docker's bridges, so no test can depend on the outside. $ANVIL_BED names another bed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
BOOTSTRAP = REPO / "bootstrap"
SIMULATED_GPUS = HERE / "gpus"

BOOTSTRAP_IMAGES = ("router:0.13.2", "router:2.0.2", "llama-server:1", "edge:1", "base:1", "postgres:1", "builder:1",
                    "aiperf:1")  # fmt: skip
OWN_IMAGES = ("registry:2", "dockerhost:1")
ALL_IMAGES = (*BOOTSTRAP_IMAGES, *OWN_IMAGES)
OPTIONAL_IMAGES = ("python-pip:1",)  # made only if they are named
HOST_NETWORK = "anvil-hosts"
# Docker's programs are short-lived Go programs that would spend a third of their time on garbage collection. lanes.py sets this.
GO = {"GOGC": "off", "GOMEMLIMIT": "1GiB"}
BUILT_IN_NETWORKS = ("bridge", "host", "none")


@dataclass(frozen=True)
class Gpu:
    """A row of the simulated driver's table. memory is in MiB. mig lists the MIG devices as PROFILE=UUID, or as
    PROFILE=UUID=TOTAL=USED in MiB; if it is empty, MIG is off.
    """

    uuid: str
    name: str = "NVIDIA RTX PRO 6000 Blackwell"
    memory: int = 97887
    memory_used: int = 4
    driver: str = "580.95.05"
    compute_cap: str = "12.0"
    mig: tuple[str, ...] = ()


RTX_5090 = Gpu("GPU-04d3b6e7-5691-3e86-1d34-c37999440cf1", "NVIDIA GeForce RTX 5090", 32607)
RTX_PRO_6000 = Gpu("GPU-d0f446cf-1771-414c-e116-a39138798a8c")
FAKOLI_DARK = (RTX_5090, RTX_PRO_6000)  # by index


class BedError(Exception):
    """Something that the bed needs is missing or did not start; the message names it."""


def format_gpus(gpus: Iterable[Gpu]) -> str:
    """Return the table that the simulated nvidia-smi and the hook read."""
    return "".join(
        f"{i}, {g.uuid}, {g.name}, {g.memory}, {g.memory_used}, {g.driver}, 00000000:{i + 1:02d}:00.0, {g.compute_cap}, "
        f"{' '.join(g.mig)}\n"
        for i, g in enumerate(gpus)
    )


def call(*argv: str | Path, **options: object) -> str:
    """Run a command and return its output; raise BedError with its stderr if it fails."""
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise BedError(f"{shlex.join(str(a) for a in argv)}: {(done.stderr or done.stdout).strip()}")
    return str(done.stdout).strip()


def wait_until(what: str, predicate: Callable[[], bool], seconds: float = 30.0) -> None:
    """Poll a predicate until it holds; raise BedError at the deadline."""
    deadline = time.monotonic() + seconds
    while not predicate():
        if time.monotonic() > deadline:
            raise BedError(f"{what}: timed out after {seconds:.0f} s")
        time.sleep(0.05)


class Bed:
    """One Docker Engine with its network namespace, its GPUs and its simulated hosts."""

    def __init__(self, name: str | None = None) -> None:
        name = name or os.environ.get("ANVIL_BED") or "testbed"
        self.cache = REPO / ".cache"
        self.data = self.cache / name / "engine"
        # A unix socket's path has at most 107 characters: the folder of the sockets needs a short name.
        self.run_dir = Path("/run") / f"anvil-bed-{hashlib.sha256(f'{REPO}:{name}'.encode()).hexdigest()[:8]}"
        self.socket = self.run_dir / "docker.sock"
        self.pid_file = self.run_dir / "dockerd.pid"
        self.namespace = self.run_dir / "net"
        self.gpu_table = self.run_dir / "gpus.csv"
        self.kernel_log = self.run_dir / "kmsg"
        self.hook_log = self.run_dir / "nvidia-hook.jsonl"
        self.log = self.run_dir / "dockerd.log"

    # -- environment ---------------------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """The variables that a client of this bed adds to its environment."""
        path = os.environ["PATH"]
        if not path.startswith(f"{SIMULATED_GPUS}:"):
            path = f"{SIMULATED_GPUS}:{path}"
        return {
            "DOCKER_HOST": f"unix://{self.socket}",
            "PATH": path,
            "FAKE_GPUS": str(self.gpu_table),
            "ANVIL_KMSG": str(self.kernel_log),
            "FAKE_NVIDIA_LOG": str(self.hook_log),
            "ANVIL_REGISTRY": "none",
        }

    def argv_inside(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs `argv` inside the bed's network namespace. It does not use `ip netns exec`, which
        remounts /sys and hides the v1 cgroups."""
        return list(argv) if self.is_inside() else ["nsenter", f"--net={self.namespace}", "--", *argv]

    def is_inside(self) -> bool:
        """Whether this process is in the bed's network namespace."""
        with contextlib.suppress(OSError):
            mine, bed = os.stat("/proc/self/ns/net"), self.namespace.stat()
            return (mine.st_ino, mine.st_dev) == (bed.st_ino, bed.st_dev)
        return False

    def run(
        self, *argv: str, check: bool = True, env: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside the bed and capture its output."""
        full = {**os.environ, **self.environment, **(env or {})}
        done = subprocess.run(self.argv_inside(argv), capture_output=True, text=True, check=False, env=full, timeout=timeout)
        if check and done.returncode:
            raise BedError(f"{shlex.join(argv)}: {(done.stderr or done.stdout).strip()}")
        return done

    def docker(self, *argv: str) -> str:
        """Run `docker ARGV...` on the bed's Docker Engine and return its output."""
        return call("docker", *argv, env={**os.environ, **self.environment})

    def get(self, path: str) -> Any:
        """Return the JSON that the Docker Engine's API answers to a GET. Every test needs it, and starting docker's client costs
        more than the request. Raises OSError if the Docker Engine does not answer.
        """
        connection = http.client.HTTPConnection("engine", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        with contextlib.closing(connection):
            connection.sock.connect(str(self.socket))
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise BedError(f"GET {path}: {answer.status} {body.decode().strip()}")
        return json.loads(body)

    def started(self) -> dict[str, str]:
        """Map each container's name to its id, start time and status. All three stay equal if nothing touches the container."""
        seen = [self.get(f"/containers/{container['Id']}/json") for container in self.get("/containers/json?all=1")]
        return {
            one["Name"].removeprefix("/"): f"{one['Id']} {one['State']['StartedAt']} {one['State']['Status']}" for one in seen
        }

    # -- network and engine --------------------------------------------------------------------------------------

    def create_namespace(self) -> None:
        """Create the network namespace with loopback up; a bind mount keeps it alive."""
        self.run_dir.mkdir(mode=0o755, exist_ok=True)
        if os.path.ismount(self.namespace):
            return
        self.namespace.touch()
        call("unshare", f"--net={self.namespace}", "true")
        call("nsenter", f"--net={self.namespace}", "ip", "link", "set", "lo", "up")

    def is_up(self) -> bool:
        """Whether the Docker Engine answers."""
        with contextlib.suppress(OSError, http.client.HTTPException, BedError):
            return bool(self.get("/version"))
        return False

    def engine_pid(self) -> int | None:
        """The pid of the bed's dockerd, or None if it does not run."""
        with contextlib.suppress(OSError, ValueError):
            pid = int(self.pid_file.read_text())
            command, state = Path(f"/proc/{pid}/stat").read_text().split()[1:3]
            if command == "(dockerd)" and state != "Z":
                return pid
        return None

    def start_engine(self, nvidia: bool = True, config: Mapping[str, Any] | None = None) -> None:
        """Start dockerd and wait until it answers; nvidia: whether it has a device driver of that name. config: more settings of
        its daemon.json."""
        if self.is_up():
            return
        self.create_namespace()
        self.data.mkdir(parents=True, exist_ok=True)
        if not self.gpu_table.exists():
            self.write_gpus(FAKOLI_DARK)
        # Without --config-file the machine's /etc/docker/daemon.json would apply.
        settings = {"insecure-registries": ["registry:5000", "172.16.0.0/12"], "log-level": "warn", **(config or {})}
        config_file = self.run_dir / "daemon.json"
        config_file.write_text(json.dumps(settings))
        self.pid_file.unlink(missing_ok=True)
        env = {**os.environ, **self.environment}
        env.pop("DOCKER_HOST")
        if not nvidia:
            env["PATH"] = env["PATH"].removeprefix(f"{SIMULATED_GPUS}:")
        dockerd = ["dockerd", "--config-file", config_file, "--data-root", self.data, "--exec-root", self.run_dir / "exec",
                   "--pidfile", self.pid_file, "--host", f"unix://{self.socket}"]  # fmt: skip
        argv = ["setsid", "--fork", *self.argv_inside([str(a) for a in dockerd])]
        with self.log.open("a") as log:
            subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)
        try:
            wait_until("start of the bed's Docker Engine", self.is_up)
        except BedError as e:
            raise BedError(f"{e}; the end of {self.log}:\n{self.log.read_text()[-2000:]}") from None

    def stop_engine(self, sig: signal.Signals = signal.SIGTERM) -> None:
        """Stop dockerd (with SIGKILL: crash it) and wait until it has ended."""
        pid = self.engine_pid()
        if pid is None:
            return
        os.kill(pid, sig)
        wait_until("end of the bed's Docker Engine", lambda: self.engine_pid() is None, 60)
        if sig == signal.SIGKILL:
            # containerd dies with dockerd but is a zombie until init reaps it; the next dockerd would wait 10 s for it.
            (self.run_dir / "exec/containerd/containerd.pid").unlink(missing_ok=True)

    def restart_engine(self, nvidia: bool = True, config: Mapping[str, Any] | None = None) -> None:
        """Stop dockerd and start it again, with or without its nvidia driver, with more settings in its daemon.json."""
        self.stop_engine()
        self.start_engine(nvidia, config)

    def clear(self) -> None:
        """Remove every container, volume and network of the bed; keep the images."""
        containers = [container["Id"] for container in self.get("/containers/json?all=1")]
        if containers:
            self.docker("rm", "--force", "--volumes", *containers)
        volumes = [volume["Name"] for volume in self.get("/volumes")["Volumes"] or ()]
        if volumes:
            self.docker("volume", "rm", "--force", *volumes)
        if {network["Name"] for network in self.get("/networks")} - {*BUILT_IN_NETWORKS}:
            self.docker("network", "prune", "--force")

    def up(self, images: Sequence[str] = ALL_IMAGES) -> None:
        """Install the tools, start the Docker Engine, make the images. Takes about 2 s if the data exists."""
        if os.geteuid():
            raise BedError("the test-bed creates a Docker Engine and a network namespace: run it as root")
        plugins = "docker compose version && docker buildx version"
        if not shutil.which("dockerd") or subprocess.run(["sh", "-c", plugins], capture_output=True, check=False).returncode:
            subprocess.run([BOOTSTRAP / "docker.sh"], check=True)
        if not shutil.which("ip"):
            ensure = f". {shlex.quote(str(BOOTSTRAP / 'lib.sh'))}; ensure ip iproute2"
            subprocess.run(["bash", "-c", ensure], check=True)
        if not self.is_up():
            self.start_engine()
            self.clear()  # a killed session leaves containers behind
        self.ensure_images(images)

    def copy_to(self, others: Sequence[Bed]) -> None:
        """Replace the data of other beds by a copy of this bed's data. Stops everything that runs in any of them. Takes seconds;
        saving and loading the images would take most of a minute."""
        self.down()
        for other in others:
            other.down(purge=True)
            other.data.parent.mkdir(parents=True, exist_ok=True)
            call("cp", "--archive", "--reflink=auto", self.data, other.data)
            (other.data / "engine-id").unlink(missing_ok=True)  # each Docker Engine must have an id of its own
        self.start_engine()

    def down(self, purge: bool = False) -> None:
        """Remove containers and volumes, stop the Docker Engine, remove the namespace; with `purge` also the data root."""
        if self.is_up():
            self.clear()
        self.stop_engine()
        with contextlib.suppress(OSError, ValueError):  # a killed dockerd leaves containerd running
            os.kill(int((self.run_dir / "exec/containerd/containerd.pid").read_text()), signal.SIGTERM)
        ours = (f"{self.run_dir}/", f"{self.data}/")
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in sorted((m for m in mounts if f"{m}/".startswith(ours)), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=False)
        shutil.rmtree(self.run_dir, ignore_errors=True)
        if purge:
            shutil.rmtree(self.data.parent, ignore_errors=True)

    # -- GPUs ----------------------------------------------------------------------------------------------------

    def write_gpus(self, gpus: Iterable[Gpu]) -> None:
        """Set the simulated cards, all healthy; takes effect at once."""
        self.gpu_table.write_text(format_gpus(gpus))
        self.kernel_log.write_text("")
        shutil.rmtree(f"{self.gpu_table}.d", ignore_errors=True)

    def set_health(self, uuid: str, xml: str) -> None:
        """What the simulated ``nvidia-smi -q -x`` reports of one card besides its memory; empty: nothing."""
        folder = Path(f"{self.gpu_table}.d")
        folder.mkdir(exist_ok=True)
        (folder / uuid).write_text(xml + "\n")

    def log_kernel(self, message: str, seconds: float = 100.0) -> None:
        """Add a line of the kernel to the simulated kernel log."""
        with self.kernel_log.open("a") as log:
            log.write(f"4,1,{seconds * 1e6:.0f},-;{message}\n")

    def pull_gpu(self, uuid: str) -> None:
        """Remove one card from the running machine."""
        rows = self.gpu_table.read_text().splitlines(keepends=True)
        self.gpu_table.write_text("".join(row for row in rows if uuid not in row))

    def hook_calls(self) -> list[dict[str, str]]:
        """The requests to the simulated driver, oldest first: id, NVIDIA_VISIBLE_DEVICES, capabilities."""
        return [json.loads(line) for line in self.hook_log.read_text().splitlines()] if self.hook_log.exists() else []

    # -- images --------------------------------------------------------------------------------------------------

    def ensure_images(self, names: Sequence[str] = ALL_IMAGES) -> None:
        """Build the images `anvil.local/NAME` that are missing or out of date; `make site` uses the same .cache/roots."""
        known = (*ALL_IMAGES, *OPTIONAL_IMAGES)
        unknown = set(names) - set(known)
        if unknown:
            raise BedError(f"no such image: {', '.join(sorted(unknown))}; known images: {', '.join(known)}")
        env = {"PYTHON": sys.executable, **os.environ, **self.environment}
        recipe = self._recipe()
        own = [n for n in names if n not in BOOTSTRAP_IMAGES and self._image_recipe(n) != recipe]
        roots = [n.split(":")[0] for n in own]
        making = subprocess.Popen([BOOTSTRAP / "roots.sh", *roots], env=env) if roots else None
        bootstrap = [n for n in names if n in BOOTSTRAP_IMAGES]
        if bootstrap:
            subprocess.run([BOOTSTRAP / "images.sh", *bootstrap], env=env, check=True)
        if making and making.wait():
            raise BedError(f"cannot make {', '.join(own)}")
        for name in own:
            print(f"==> building anvil.local/{name}", file=sys.stderr)
            self.docker(
                "buildx", "build", "--quiet", "--load", "--network=none", "--label", f"anvil.recipe={recipe}",
                "--build-context", f"gpus={SIMULATED_GPUS}", "--tag", f"anvil.local/{name}",
                "--file", str(HERE / "images" / f"{name.split(':')[0]}.Dockerfile"), str(self.cache / "roots"),
            )  # fmt: skip

    def _recipe(self) -> str:
        sources = [*sorted((HERE / "images").iterdir()), *sorted(SIMULATED_GPUS.iterdir()), BOOTSTRAP / "roots.sh"]
        return hashlib.sha256(b"".join(p.read_bytes() for p in sources if p.is_file())).hexdigest()[:16]

    def _image_recipe(self, name: str) -> str:
        with contextlib.suppress(BedError):
            return self.docker("image", "inspect", "--format", '{{index .Config.Labels "anvil.recipe"}}', f"anvil.local/{name}")
        return ""

    # -- simulated Docker hosts ----------------------------------------------------------------------------------

    def host_up(
        self,
        name: str,
        gpus: Iterable[Gpu] = (),
        images: Sequence[str] = (),
        mounts: Sequence[str] = (),
        dockerd_args: str = "",
    ) -> Host:
        """Start a simulated host: a Docker Engine in a privileged container, with these GPUs and images.

        `images` are full references on the bed's Docker Engine, `mounts` are `docker run --volume` values. Hosts resolve
        each other's names. An existing host of that name is replaced.
        """
        self.host_down(name)
        if not self.docker("network", "ls", "--quiet", "--filter", f"name=^{HOST_NETWORK}$"):
            self.docker("network", "create", HOST_NETWORK)
        volumes = [part for mount in mounts for part in ("--volume", mount)]
        passed_on = [part for name in GO for part in ("--env", name)]
        self.docker(
            "run", "--detach", "--privileged", "--name", name, "--hostname", name, "--network", HOST_NETWORK,
            "--label", "anvil.bed=host", "--env", f"GPU_TABLE={format_gpus(gpus).rstrip()}",
            "--env", f"DOCKERD_ARGS={dockerd_args}", *passed_on, *volumes, "anvil.local/dockerhost:1",
        )  # fmt: skip
        host = Host(self, name)
        wait_until(f"start of the Docker Engine of {name}", host.is_up)
        if images:
            host.load_images(images)
        return host

    def host_down(self, name: str) -> None:
        """Remove a simulated host and its data, if it exists."""
        self.docker("rm", "--force", "--volumes", name)


@dataclass(frozen=True)
class Host:
    """A simulated Docker host: a privileged container on the bed's Docker Engine."""

    bed: Bed
    name: str

    def run(self, *argv: str) -> str:
        """Run a command on the host and return its output."""
        return self.bed.docker("exec", self.name, *argv)

    def docker(self, *argv: str) -> str:
        """Run `docker ARGV...` on the host."""
        return self.run("docker", *argv)

    def is_up(self) -> bool:
        """Whether the host's Docker Engine answers; raises BedError if the host itself has ended."""
        if self.bed.docker("inspect", "--format", "{{.State.Running}}", self.name) != "true":
            raise BedError(f"{self.name} has ended: {self.bed.docker('logs', '--tail', '20', self.name)}")
        with contextlib.suppress(BedError):
            return bool(self.docker("version", "--format", "{{.Server.Version}}"))
        return False

    def ip(self) -> str:
        """The host's IP address in the bed."""
        return self.bed.docker("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", self.name)

    def load_images(self, images: Sequence[str]) -> None:
        """Copy images from the bed's Docker Engine to that of the host."""
        env = {**os.environ, **self.bed.environment}
        with subprocess.Popen(["docker", "save", *images], env=env, stdout=subprocess.PIPE) as save:
            call("docker", "exec", "--interactive", self.name, "docker", "load", "--quiet", env=env, stdin=save.stdout)
        if save.returncode:
            raise BedError(f"docker save {' '.join(images)} failed")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up")
    up.add_argument("images", nargs="*", metavar="IMAGE")
    commands.add_parser("copy").add_argument("beds", nargs="+", metavar="BED", type=Bed)
    commands.add_parser("down").add_argument("--purge", action="store_true")
    commands.add_parser("env")
    host_up = commands.add_parser("host-up")
    host_up.add_argument("name")
    host_up.add_argument("images", nargs="*", metavar="IMAGE")
    commands.add_parser("host-down").add_argument("name")
    commands.add_parser("images").add_argument("images", nargs="*", metavar="IMAGE")
    commands.add_parser("run").add_argument("argv", nargs=argparse.REMAINDER, metavar="-- CMD")
    arguments = parser.parse_args()
    bed = Bed()
    try:
        match arguments.command:
            case "up":
                bed.up(arguments.images or ALL_IMAGES)
            case "copy":
                bed.copy_to(arguments.beds)
            case "down":
                bed.down(arguments.purge)
            case "env":
                print("\n".join(f"export {k}={shlex.quote(v)}" for k, v in bed.environment.items()))
            case "host-up":
                bed.host_up(arguments.name, FAKOLI_DARK, arguments.images)
            case "host-down":
                bed.host_down(arguments.name)
            case "images":
                bed.ensure_images(arguments.images or ALL_IMAGES)
            case "run":
                argv = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
                if not argv:
                    parser.error("run needs a command: bed.py run -- CMD...")
                if not bed.is_up():
                    raise BedError("the test-bed is not running; start it with: bed.py up")
                inside = bed.argv_inside(argv)
                os.execvpe(inside[0], inside, {**os.environ, **bed.environment})
    except (BedError, subprocess.CalledProcessError) as e:
        print(f"bed.py: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
