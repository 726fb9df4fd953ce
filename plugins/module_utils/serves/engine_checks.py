# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask the engine in the image of each serve whether it accepts the serve's command line, before a container is touched.

A side container runs the image's own parser: no network, no cards, no capabilities, read-only, bounded time and memory, no
secrets. An accepted command line is remembered on the host by image and words, so that it is asked once.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.core.program_source import read_source
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Service
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.side_containers import LABEL_OWNER, confine, describe_owner
from ansible_collections.anvil.serving.plugins.module_utils.promotion.leftovers import sweep_leftovers
from ansible_collections.anvil.serving.plugins.module_utils.serves import decisions, engine_questions
from ansible_collections.anvil.serving.plugins.module_utils.serves.engine_questions import (
    ACCEPTED,
    REFUSED,
    UNKNOWN,
    Answer,
    Question,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import ObservedImage
from ansible_collections.anvil.serving.plugins.module_utils.serves.programs import parse_command_lines
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import Outcome, Project
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_files import MEMORY_FILE
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_state import ProjectState

CREATING = (decisions.CREATE, decisions.RECREATE, decisions.ADOPT)
ENGINES = ("vllm", "sglang", "llama_cpp", "trtllm")
# Fields of a container that its engine's parser reads. Where no other field differs, what runs was accepted already.
READ_BY_PARSER = {"image", "command", "entrypoint", "environment", "mounts", "mounted_file", "working_dir", "user"}
# Importing PyTorch and an engine from a cold disk takes a minute; llama-server takes 0.1 s.
LLAMA_SECONDS, PYTHON_SECONDS = 30.0, 180.0
LLAMA_MEMORY, PYTHON_MEMORY = "1g", "4g"
MOST_REMEMBERED = 200
# Variables of the side container. They come after those of the serve.
SIDE_ENVIRONMENT = {
    "HOME": "/tmp",
    "NVIDIA_VISIBLE_DEVICES": "void",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


@dataclass(frozen=True)
class Asked:
    """A serve that is asked for: its question, what its side container mounts, and the key of an accepted answer."""

    service: Service
    question: Question
    image: str
    mounts: Tuple[Mapping[str, Any], ...]
    key: str


def find_questions(
    state: ProjectState, services: Sequence[Service], outcomes: Mapping[str, Outcome]
) -> Tuple[List[Asked], List[str]]:
    """The serves whose command line is new to their image here, and notes on those that cannot be asked for.

    A serve whose image is not on this host is left out: it is pulled first.
    """
    found: List[Asked] = []
    notes: List[str] = []
    accepted: Optional[Mapping[str, str]] = None
    for service in services:
        image = state.read_image(service.image)
        if image is None or service.anvil.get("engine") not in ENGINES or not _is_new(image, outcomes[service.name]):
            continue
        question = engine_questions.build_question(service, image)
        if question is None:
            notes.append(
                _describe_unasked(service, "its entrypoint starts no program that is known here, or an argument holds a secret")
            )
            continue
        accepted = _read_accepted(state.project) if accepted is None else accepted
        mounts = _list_mounts(state.docker, service, question)
        key = _make_key(service, image, question, mounts)
        if key not in accepted:
            found.append(Asked(service, question, image.id, tuple(mounts), key))
    return found, notes


def _is_new(image: ObservedImage, outcome: Outcome) -> bool:
    """Whether a container is about to be created with another command line than one that runs."""
    seen = outcome.seen
    if outcome.decision.action not in CREATING:
        return False
    if outcome.decision.action != decisions.RECREATE or seen is None or seen.state != "running":
        return True
    return seen.image_id != image.id or bool(READ_BY_PARSER.intersection(outcome.decision.reasons))


def ask_engines(
    state: ProjectState, asked: Sequence[Asked], outcomes: Mapping[str, Outcome], remember: bool
) -> Tuple[bool, List[str]]:
    """Put refusals into the outcomes of these serves; returns whether there is any, and notes for the operator.

    remember: write down which command lines were accepted (never in check mode).
    """
    groups: Dict[Tuple[str, ...], List[Asked]] = {}
    for one in asked:
        alone = one.service.name if one.question.style == "llama" else ""
        needs = (one.image, alone, str(one.service.user), str(one.service.working_dir), json.dumps(one.mounts, sort_keys=True))
        groups.setdefault(needs, []).append(one)
    refused, notes, accepted = False, [], _read_accepted(state.project)
    if remember and groups:
        sweep_leftovers(state.docker)
    for members in groups.values():
        answers = _ask_group(state.docker, members)
        for one in members:
            answer = answers[one.service.name]
            if answer.outcome == REFUSED:
                refused = True
                outcomes[one.service.name].problems.append(_describe_refusal(one, answer))
            elif answer.outcome == ACCEPTED:
                accepted[one.key] = one.service.name
                if answer.words:
                    notes.append("serve {0}: the engine says of its command line: {1}".format(one.service.name, answer.words))
            else:
                notes.append(_describe_doubt(one.service, answer))
    if remember:
        _write_accepted(state.project, accepted)
    return refused, notes


def _ask_group(docker: DockerEngine, members: Sequence[Asked]) -> Dict[str, Answer]:
    """The answers to questions that one side container can answer; UNKNOWN where it does not work."""
    question = members[0].question
    llama = question.style == "llama"
    seconds = LLAMA_SECONDS if llama else PYTHON_SECONDS
    command = list(question.command) if llama else ["-c", read_source(parse_command_lines)]
    try:
        process = docker.open_process(members[0].image, command, **_describe_container(members[0], llama))
    except AnvilError as exc:
        return {one.service.name: Answer(UNKNOWN, exc.problems[0].why or exc.problems[0].what) for one in members}
    try:
        if not llama:
            process.send(json.dumps([_as_message(one) for one in members]).encode("utf-8") + b"\n")
        lines, ended = _read_lines(process, seconds, "" if llama else parse_command_lines.MARK + "end")
        errors = process.errors.decode("utf-8", "replace")
    except AnvilError as exc:
        lines, ended, errors = [], True, exc.problems[0].why
    finally:
        process.close()
    if not llama:
        return _read_python_answers(lines, errors, ended, members)
    late = Answer(UNKNOWN, "llama-server did not end within {0:.0f} s".format(seconds))
    output = "\n".join([*lines, errors])
    return {members[0].service.name: engine_questions.read_llama_answer(question, output) if ended else late}


def _describe_container(one: Asked, llama: bool) -> Dict[str, Any]:
    memory = LLAMA_MEMORY if llama else PYTHON_MEMORY
    options: Dict[str, Any] = {
        "entrypoint": list(one.question.entrypoint) if llama else ["python3"],
        "environment": {**(one.question.environment if llama else {}), **SIDE_ENVIRONMENT},
        "labels": {LABEL_OWNER: describe_owner()},
        "healthcheck": {"test": ["NONE"]},
        "host_config": confine(
            tmpfs={"/tmp": "size=256m,mode=1777"},
            mounts=list(one.mounts),
            mem_limit=memory,
            memswap_limit=memory,
            pids_limit=512,
        ),
    }
    if one.service.user is not None:
        options["user"] = one.service.user
    if one.service.working_dir is not None:
        options["working_dir"] = one.service.working_dir
    return options


def _as_message(one: Asked) -> Dict[str, Any]:
    question = one.question
    return {
        "name": one.service.name,
        "style": question.style,
        "argv": question.argv,
        "environment": {**question.environment, **SIDE_ENVIRONMENT},
    }


def _read_python_answers(lines: Sequence[str], errors: str, ended: bool, members: Sequence[Asked]) -> Dict[str, Answer]:
    mark, raw = parse_command_lines.MARK, {}
    for line in lines:
        if line.startswith(mark + "{"):
            try:
                read = json.loads(line[len(mark) :])
                raw[str(read["name"])] = read
            except (ValueError, KeyError, TypeError):
                continue
    last = next((line.strip() for line in reversed(errors.splitlines()) if line.strip()), "no output")
    silent = Answer(UNKNOWN, ("the program ended without an answer: " if ended else "no answer in time: ") + last[:300])
    return {
        one.service.name: engine_questions.read_python_answer(one.question, raw[one.service.name])
        if one.service.name in raw
        else silent
        for one in members
    }


def _read_lines(process: Any, seconds: float, last: str) -> Tuple[List[str], bool]:
    """The lines of a side container until it ends or prints ``last``; False: it did neither in time."""
    lines: List[str] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and len(lines) < 10000:
        try:
            line = process.read_line(max(0.1, deadline - time.monotonic())).decode("utf-8", "replace")
        except AnvilError:
            return lines, time.monotonic() < deadline
        lines.append(line)
        if last and line == last:
            return lines, True
    return lines, False


def _list_mounts(docker: DockerEngine, service: Service, question: Question) -> List[Dict[str, Any]]:
    """The mounts that hold a file which an argument or a variable names, read-only. What does not exist yet is left out."""
    words = [*question.argv, *question.environment.values()]
    paths = [word.partition("=")[2] if word.startswith("-") and "=" in word else word for word in words]
    model = str(service.anvil.get("model") or "")
    needed = [path for path in paths if path.startswith("/") and path != model]
    found: List[Dict[str, Any]] = []
    for mount in service.mounts:
        if not any(path == mount.target or path.startswith(mount.target.rstrip("/") + "/") for path in needed):
            continue
        there = os.path.exists(mount.source) if mount.kind == "bind" else docker.inspect_volume(mount.source) is not None
        if there:
            entry: Dict[str, Any] = {"Type": mount.kind, "Source": mount.source, "Target": mount.target, "ReadOnly": True}
            found.append({**entry, "VolumeOptions": {"NoCopy": True}} if mount.kind == "volume" else entry)
    return found


def _make_key(service: Service, image: ObservedImage, question: Question, mounts: Sequence[Mapping[str, Any]]) -> str:
    """What an answer depends on: image, command line, variables, mounted files, and the program that asked."""
    stamps = [_stamp(str(mount["Source"])) for mount in mounts if mount["Type"] == "bind"]
    parts: List[Any] = [image.id, question.style, question.entrypoint, question.argv, sorted(question.environment.items())]
    parts += [service.user, service.working_dir, list(mounts), stamps]
    parts += [hashlib.sha256(read_source(parse_command_lines).encode("utf-8")).hexdigest()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8")).hexdigest()


def _stamp(path: str) -> Optional[List[int]]:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns] if os.path.isfile(path) else None


def _read_accepted(project: Project) -> Dict[str, str]:
    """Key of an accepted command line -> its serve. A file that cannot be read costs one more question."""
    try:
        read = json.loads(files.read_file(os.path.join(project.directory, MEMORY_FILE)) or "{}")
    except (ValueError, AnvilError):
        return {}
    return {str(key): str(serve) for key, serve in read.items()} if isinstance(read, dict) else {}


def _write_accepted(project: Project, accepted: Mapping[str, str]) -> None:
    kept = dict(list(accepted.items())[-MOST_REMEMBERED:])
    path, text = os.path.join(project.directory, MEMORY_FILE), json.dumps(kept, indent=1) + "\n"
    if files.differs(path, text, 0o600):
        files.write_file(path, text, 0o600)


def _describe_unasked(service: Service, why: str) -> str:
    return "serve {0}: the engine was not asked whether it accepts the command line: {1}".format(service.name, why)


def _describe_doubt(service: Service, answer: Answer) -> str:
    if answer.outcome == UNKNOWN:
        return _describe_unasked(service, answer.words)
    return "serve {0}: the engine may refuse its command line: {1}".format(service.name, answer.words)


def _describe_refusal(one: Asked, answer: Answer) -> Problem:
    return Problem(
        what="the engine refuses the command line" + (": " + answer.argument if answer.argument else ""),
        where="serve {0}, image {1}".format(one.service.name, one.service.image),
        why=answer.words,
        hint=engine_questions.describe_change(one.question, answer.argument) + ", then run again; nothing was changed",
        log=answer.log,
    )
