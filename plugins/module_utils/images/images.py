# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images: built only if no image of that content exists, tagged by the hash of the content, pushed only when asked.

The build context goes to the builder as a tar on its standard input: there is no folder that a killed run could leave
behind, and nothing gets into it that was not named. The builder tags an image when it is whole, so that a killed build
leaves no image of that name. Secrets go in the environment of the client alone, and are mounted by BuildKit for the one
command that asks for them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import stat
import subprocess
import tarfile
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import IO, Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, cast

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.live_output import LiveOutput
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.service import LABEL_BASE, LABEL_CONTENT

STACKS: Mapping[str, str] = {
    "vllm": "vllm-",
    "trt": "trt-",
    "tool": "tool-",
    "sglang": "sglang-",
    "llama_cpp": "llama-",
    "workflow": "workflow-",
}
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}")
LOG_LINES = 40
PUSH_TRIES = 5


@dataclass(frozen=True)
class Recipe:
    """All that decides what is in an image.

    files: path in the context -> text. folders: name of a build context -> folder on this host. build_args: among them
    ``BASE``, the base image. secrets: ids only, the values are no part of the content.
    """

    name: str
    stack: str
    dockerfile: str
    tag: str = ""
    base: str = ""
    platform: str = ""
    network: str = "default"
    files: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, str] = field(default_factory=dict)
    build_args: Mapping[str, str] = field(default_factory=dict)
    secrets: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Login:
    """Credentials of a registry; the password goes through standard input into a configuration that is thrown away."""

    username: str = ""
    password: str = ""


@dataclass(frozen=True)
class Decision:
    """What is to be done. action: ``none``, ``tag`` or ``build``; reasons: ``missing``, ``content``, ``base``, ``tag``."""

    action: str
    reasons: Tuple[str, ...]
    image: Optional[Mapping[str, Any]]


# --------------------------------------------------------------------------------------------------------------- pure


def _walk(folder: str) -> Iterator[Tuple[str, str]]:
    """(path relative to the folder, absolute path) of every file in it, in one order everywhere."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(place, name)
            yield os.path.relpath(path, folder), path


def _hash_file(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        for piece in iter(lambda: handle.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def _hash_folder(name: str, folder: str) -> List[Tuple[str, int, str]]:
    if not os.path.isdir(folder):
        raise fail(
            "the folder of build context {0} is not there".format(name),
            where=folder,
            why="what the image should hold has to be on this host before it is built",
            hint="fetch it first, or leave the context out (weights: mounted)",
        )
    try:
        return [(inner, stat.S_IMODE(os.stat(path).st_mode), _hash_file(path)) for inner, path in _walk(folder)]
    except OSError as exc:
        raise fail("cannot read build context " + name, where=exc.filename or folder, why=exc.strerror or str(exc)) from exc


def content_hash(recipe: Recipe) -> str:
    """sha256 of everything that decides what the image holds: not its name and tag, and no value of a secret."""
    content = asdict(recipe)
    for key in ("name", "tag"):
        content.pop(key)
    content["folders"] = {name: _hash_folder(name, folder) for name, folder in recipe.folders.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def references(recipe: Recipe, content: str) -> Tuple[str, Optional[str]]:
    """The image's name by its content, and its readable one (``None`` without a tag), both with the stack's prefix."""
    prefix = recipe.name + ":" + STACKS[recipe.stack]
    return prefix + content[:16], (prefix + recipe.tag if recipe.tag else None)


def check_recipe(recipe: Recipe) -> None:
    """Raise AnvilError for what BuildKit would only trip over later."""
    if recipe.tag and not TAG.fullmatch(recipe.tag):
        raise fail("{0!r} will not do as a tag".format(recipe.tag), where="tag", hint="letters, digits, _, . and -")
    for path in recipe.files:
        if os.path.isabs(path) or ".." in path.split("/") or path in ("", "Dockerfile"):
            raise fail("{0!r} will not do in a build context".format(path), where="files", hint="a path below the context")


def pack_context(recipe: Recipe) -> bytes:
    """The build context: the Dockerfile and the files that were named, as a tar without owner and time."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path, text in sorted({**recipe.files, "Dockerfile": recipe.dockerfile}.items()):
            raw = text.encode()
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(raw), 0o755 if text.startswith("#!") else 0o644
            tar.addfile(member, io.BytesIO(raw))
    return packed.getvalue()


def decide(
    content: str, image: Optional[Mapping[str, Any]], readable: Optional[Mapping[str, Any]], tag: bool, base_id: str
) -> Decision:
    """What to do, given the image of that content, the one with the readable tag, and the id of the base as it is now.

    An empty ``base_id`` is a base that this engine does not hold: it cannot have changed here.
    """
    if image is None:
        return Decision("build", ("missing",), None)
    labels = (image.get("Config") or {}).get("Labels") or {}
    if labels.get(LABEL_CONTENT) != content:
        return Decision("build", ("content",), image)
    if base_id and labels.get(LABEL_BASE) not in ("", None, base_id):
        return Decision("build", ("base",), image)
    if tag and (readable is None or readable["Id"] != image["Id"]):
        return Decision("tag", ("tag",), image)
    return Decision("none", (), image)


def mask(text: str, secrets: Sequence[str]) -> str:
    for value in sorted((word for word in secrets if word), key=len, reverse=True):
        text = text.replace(value, "********")
    return text


# ---------------------------------------------------------------------------------------------------------- programs


def _docker(engine: DockerEngine, *words: str) -> List[str]:
    return ["docker", "-H", engine.docker_host, *words]


def _run(
    argv: Sequence[str],
    timeout: int,
    told: Optional[Callable[[str], None]] = None,
    body: bytes = b"",
    env: Optional[Mapping[str, str]] = None,
) -> Tuple[int, str]:
    """Run a program and return its exit status and output. told: hears each line of it as it comes. body: what it reads."""
    lines: List[str] = []

    def listen(stream: IO[bytes]) -> None:
        for raw in stream:
            lines.append(raw.decode("utf-8", "replace"))
            if told is not None:
                told(lines[-1])

    try:
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env)
    except FileNotFoundError as exc:
        hint = "install the Docker CLI with buildx (docker-cli and docker-buildx), or let the role docker_host do it"
        raise fail("the docker command is not on this host", where="PATH", why=str(exc), hint=hint) from exc
    incoming, outgoing = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
    listener = threading.Thread(target=listen, args=(outgoing,), daemon=True)
    listener.start()
    with contextlib.suppress(BrokenPipeError):  # what ended early has said why
        incoming.write(body)
        incoming.close()
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired as exc:
        process.kill()
        process.wait()
        listener.join(5)
        tail = "".join(lines).splitlines()[-LOG_LINES:]
        raise fail("it did not end in {0} s".format(timeout), where=" ".join(argv[:5]), log=tail, hint="raise timeout") from exc
    listener.join(5)
    return process.returncode, "".join(lines)


# BuildKit's plain progress: the line that a step begins with. What a step itself prints has a time there, and is not shown.
STEP = re.compile(r"#\d+ \[(?!internal\])(?P<step>[^\]]+)\] (?P<words>.+)")


def step_of(line: str) -> str:
    """The step that a line of a build's log begins, as ``stage 2/5: RUN …``; empty for every other line."""
    found = STEP.match(line.strip())
    return "{0}: {1}".format(found["step"].strip(), found["words"][:100]) if found else ""


ENGINE_GONE = (
    "code = Unavailable",
    "failed to solve: Unavailable",
    "failed to receive status",
    "Cannot connect to the Docker daemon",
    "error during connect",
)


def explain_end(code: int, log: str) -> Tuple[str, str]:
    """Why a build ended (exit status, or minus the signal) that did not end well, and what to do."""
    again = "then run again: finished steps are not repeated"
    if "buildx" in log and "not a docker command" in log:
        return "the docker command has no buildx", "install buildx (docker-buildx, docker-buildx-plugin)"
    if code < 0:
        why = "docker buildx build was killed by signal {0}".format(-code)
        return why, "look who did it (journalctl -k tells of memory that ran out), " + again
    end = "\n".join(log.splitlines()[-LOG_LINES:])
    if any(word in end for word in ENGINE_GONE):
        why = "the engine went away while it built (docker buildx build ended with {0})".format(code)
        return why, "look why it ended or was restarted (journalctl -u docker), " + again
    return "docker buildx build ended with {0}".format(code), "mend what the end of the log shows, " + again


def _build(
    engine: DockerEngine,
    recipe: Recipe,
    content: str,
    base_id: str,
    secrets: Mapping[str, str],
    timeout: int,
    live_output: LiveOutput,
) -> List[str]:
    reference, _readable = references(recipe, content)
    argv = _docker(engine, "buildx", "build", "--load", "--progress=plain", "--provenance=false", "--tag", reference)
    argv += ["--network", recipe.network, "--label", LABEL_CONTENT + "=" + content, "--label", LABEL_BASE + "=" + base_id]
    if recipe.platform:
        argv += ["--platform", recipe.platform]
    build_args = {**recipe.build_args, **({"BASE": recipe.base} if recipe.base else {})}
    for name, value in sorted(build_args.items()):
        argv += ["--build-arg", "{0}={1}".format(name, value)]
    for name, folder in sorted(recipe.folders.items()):
        argv += ["--build-context", "{0}={1}".format(name, folder)]
    environment = {name: value for name, value in os.environ.items() if name != "DOCKER_CONTEXT"}
    for number, name in enumerate(recipe.secrets):
        argv += ["--secret", "id={0},env=ANVIL_SECRET_{1}".format(name, number)]
        environment["ANVIL_SECRET_{0}".format(number)] = secrets[name]
    argv.append("-")
    seen = set()

    def told(line: str) -> None:
        step = mask(step_of(line), list(secrets.values()))
        if step and step not in seen:
            seen.add(step)
            live_output.write_line("{0} {1}".format(reference, step))

    code, text = _run(argv, timeout, told, pack_context(recipe), environment)
    if code != 0:
        lines = mask(text, list(secrets.values())).splitlines()
        why, hint = explain_end(code, text)
        raise fail(
            "the image could not be built, and nothing of it is left", where=reference, why=why, hint=hint, log=lines[-LOG_LINES:]
        )
    return argv


def _registry(name: str) -> str:
    """The host of a registry in an image's name; an empty string is the default one."""
    head, slash, _rest = name.partition("/")
    return head if slash and ("." in head or ":" in head or head == "localhost") else ""


def pushed_digest(image: Mapping[str, Any], name: str) -> str:
    """``sha256:…`` under which an image is in the repository of that name, as far as the engine knows."""
    found = [digest.partition("@")[2] for digest in image.get("RepoDigests") or () if digest.partition("@")[0] == name]
    return found[0] if found else ""


def _push(engine: DockerEngine, recipe: Recipe, wanted: Sequence[str], login: Login, timeout: int) -> str:
    """Push, and pull by the digest: what the registry then holds is what was built. Returns the digest."""
    with tempfile.TemporaryDirectory(prefix="anvil-docker-") as config:
        os.chmod(config, 0o700)
        docker = _docker(engine, "--config", config)
        if login.username:
            argv = [*docker, "login", "--username", login.username, "--password-stdin"]
            argv += [_registry(recipe.name)] if _registry(recipe.name) else []
            _retry(argv, recipe.name, 120, login, "the registry refuses the credentials", login.password.encode())
        for reference in wanted:
            _retry([*docker, "push", "--quiet", reference], reference, timeout, login, "the registry did not take the image")
        image = engine.inspect_image(wanted[0])
        digest = pushed_digest(image or {}, recipe.name)
        if not digest:
            raise fail("the engine does not tell the digest of what it pushed", where=wanted[0])
        argv = [*docker, "pull", "--quiet", "{0}@{1}".format(recipe.name, digest)]
        _retry(argv, recipe.name, timeout, login, "the registry does not give back what was pushed")
    return digest


FINAL = ("denied", "unauthorized", "authentication required", "no basic auth", "not found", "manifest unknown")


def _retry(argv: Sequence[str], where: str, timeout: int, login: Login, what: str, body: bytes = b"") -> None:
    """Run a command that needs the registry, again after 1, 2, 4 and 8 s where another try may help."""
    for number in range(PUSH_TRIES):
        code, text = _run(argv, timeout, body=body)
        if code == 0:
            return
        final = any(word in text.lower() for word in FINAL)
        if final or number == PUSH_TRIES - 1:
            raise fail(
                what if final else "{0}, asked {1} times".format(what, PUSH_TRIES),
                where=where,
                why=mask(text, [login.password]).strip(),
                hint="the image is built and stays; correct the registry or the credentials, then run again",
            )
        time.sleep(2**number)


# ------------------------------------------------------------------------------------------------------------- verbs


def _is_pushed(engine: DockerEngine, reference: str, digest: str, login: Login) -> bool:
    """Whether the registry holds that digest under that name."""
    if not digest:
        return False
    auth = {"username": login.username, "password": login.password} if login.username else None
    try:
        told = engine.inspect_distribution(reference, auth)
    except AnvilError:
        return False  # whatever it is that fails, the push will say it
    return bool(told and told["Descriptor"]["digest"] == digest)


def _unbuilt(recipe: Recipe) -> Dict[str, Any]:
    told: Dict[str, Any] = {"changed": True, "action": "build", "reasons": ["missing"], "reference": "", "tags": []}
    return {**told, "image_id": None, "digest": None, "pushed": False, "commands": [], "seconds": 0.0}


def converge_image(
    engine: DockerEngine,
    recipe: Recipe,
    secrets: Mapping[str, str],
    push: Optional[Login],
    timeout: int,
    live_output: LiveOutput,
    check: bool,
) -> Dict[str, Any]:
    """Have an image of this content, under both its names, and in the registry if asked.

    push: the login to push with; None: do not push.
    """
    check_recipe(recipe)
    if check and not all(os.path.isdir(folder) for folder in recipe.folders.values()):
        # An earlier task would have brought it, had it not been a check: what is built from it cannot be there yet.
        return _unbuilt(recipe)
    content = content_hash(recipe)
    reference, readable = references(recipe, content)
    image = engine.inspect_image(reference)
    base = engine.inspect_image(recipe.base) if recipe.base else None
    base_id = str(base["Id"]) if base else ""
    named = engine.inspect_image(readable) if readable else None
    decision = decide(content, image, named, readable is not None, base_id)
    wanted = [name for name in (reference, readable) if name]
    result: Dict[str, Any] = {
        "changed": decision.action != "none",
        "action": decision.action,
        "reasons": list(decision.reasons),
        "reference": reference,
        "tags": wanted,
        "image_id": image["Id"] if image else None,
        "digest": pushed_digest(image or {}, recipe.name) or None,
        "pushed": False,
        "commands": [],
        "seconds": 0.0,
    }
    must_push = push is not None and (
        decision.action != "none" or not all(_is_pushed(engine, name, result["digest"] or "", push) for name in wanted)
    )
    result["changed"] = result["changed"] or must_push
    if check or not result["changed"]:
        return result
    began = time.monotonic()
    if decision.action == "build":
        result["commands"].append(_build(engine, recipe, content, base_id, secrets, timeout, live_output))
    if readable:
        engine.tag_image(reference, readable)
    made = engine.inspect_image(reference)
    result["image_id"] = made["Id"] if made else None
    if push is not None and must_push:
        live_output.write_line("{0} is pushed".format(reference))
        result["digest"] = _push(engine, recipe, wanted, push, timeout)
        result["pushed"] = True
    result["seconds"] = round(time.monotonic() - began, 3)
    return result


MACHINES: Mapping[str, str] = {"amd64": "x86_64", "arm64": "aarch64"}
TELL_VERSION = "import sys; print('%d.%d' % sys.version_info[:2])"


def is_fresh(engine: DockerEngine, name: str, base: str) -> bool:
    """Is the image here, and the base that it was built on still the one of that name? One that is gone cannot have changed."""
    image, found = engine.inspect_image(name), engine.inspect_image(base)
    if image is None:
        return False
    built_on = (image.get("Config", {}).get("Labels") or {}).get(LABEL_BASE)
    return found is None or built_on in ("", None, found["Id"])


def describe_image(engine: DockerEngine, name: str, pull: bool, check: bool) -> Dict[str, Any]:
    """What an image is, and which Python it has. An image that is not on this host is pulled if asked; else it is told so.

    Returns what anvil_image_info returns. python: empty where the image has none.
    """
    image = engine.inspect_image(name)
    pulled = image is None and pull
    if pulled and not check:
        code, text = _run(_docker(engine, "pull", "--quiet", name), 1800)
        if code != 0:
            raise fail(
                "image {0} is not on this host and cannot be pulled".format(name),
                where=name,
                why=text.strip()[-500:],
                hint="docker load it there, or build it: bootstrap/images.sh makes those of anvil.local",
            )
        image = engine.inspect_image(name)
    told: Dict[str, Any] = {
        "changed": pulled,
        "exists": image is not None,
        "image_id": None,
        "mb": 0.0,
        "machine": "",
        "python": "",
    }
    if image is None:
        return told
    told["image_id"] = image["Id"]
    told["mb"] = round(int(image["Size"]) / 1e6, 1)
    told["machine"] = MACHINES.get(str(image.get("Architecture")), str(image.get("Architecture")))
    told["python"] = _read_python(engine, name)
    return told


def _read_python(engine: DockerEngine, name: str) -> str:
    host = {"cap_drop": ["ALL"], "network_mode": "none"}
    try:
        ran = engine.run_side_container(name, ["-I", "-c", TELL_VERSION], entrypoint=["python3"], host_config=host)
    except AnvilError as exc:
        if "executable file not found" in exc.as_text():
            return ""
        raise
    return ran.output.strip() if ran.exit_code == 0 else ""
