# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The router's verbs: promote its files, tell its state, ask its tiers.

Two generations are served. A *profile* router (anvil-serving 0.12 to 0.13.2) reads config.toml and profile.json; a
*gateway* router (0.35.1 to 2.0.2) reads config.toml only. Which one an image holds is found out in the image itself.
"""

from __future__ import annotations

import calendar
import difflib
import http.client
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.engine import Engine, is_local, published_address
from ansible_collections.anvil.serving.plugins.module_utils.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.promotion import (
    Order,
    Outcome,
    Proof,
    Verdict,
    View,
    is_loaded,
    list_history,
    parse_journal,
    promote,
    read_place,
    short,
    wait_for,
)
from ansible_collections.anvil.serving.plugins.module_utils.volume import (
    LABEL_OWNER,
    Place,
    describe_owner,
    hash_revision,
    read_snapshot,
)

CONFIG = "config.toml"
PROFILE = "profile.json"
PROFILE_ROUTER, GATEWAY_ROUTER = "profile", "gateway"

# A router that was started this recently may still be on its way up (seconds).
STARTING = 15.0
# A container whose restart policy had to start it within this many seconds is taken for a crash loop.
CRASH_WINDOW = 10.0
# A tier that is not ready yet (503, or no answer) is asked again for this long (seconds).
NOT_READY = 10.0

# Runs in the router's own image: one line of JSON in, one line of JSON out. It only finds out; we judge.
VALIDATOR = r"""
import contextlib, json, sys

request = json.loads(sys.stdin.buffer.readline().decode("utf-8"))
facts = {"generation": None, "version": None, "tier_ids": [], "work_classes": [], "decisions": [], "profile_path": None,
         "token_variable": None, "errors": []}


def attempt(where, act, *values):
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return act(*values)
    except (Exception, SystemExit) as exc:
        said = {"where": where, "why": "%s: %s" % (type(exc).__name__, exc)}
        if said not in facts["errors"]:
            facts["errors"].append(said)
    return None


def examine():
    try:
        from anvil_serving.router import config as loader
    except ImportError as exc:
        facts["errors"].append({"where": "image", "why": "ImportError: %s" % exc})
        return
    try:
        from anvil_serving.router import classify, profile_bootstrap, profile_store
    except ImportError:
        facts["generation"] = "gateway"
        profile_bootstrap = None
    else:
        facts["generation"] = "profile"
        facts["work_classes"] = [str(name) for name in classify.WORK_CLASSES]
        facts["decisions"] = [str(name) for name in profile_store.DECISIONS]
    import importlib.metadata
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        facts["version"] = importlib.metadata.version("anvil-serving")
    for name in ("config", "profile"):
        if request[name] is not None:
            with open(request[name + "_path"], "w", encoding="utf-8", newline="") as stream:
                stream.write(request[name])
    if request["config"] is not None:
        path = request["config_path"]
        router = attempt("config.toml", loader.load, path)
        server = attempt("config.toml", loader.load_server_config, path)
        if router is not None:
            facts["tier_ids"] = [str(tier.id) for tier in router.tiers]
            facts["profile_path"] = getattr(router, "profile_path", None)
        if server is not None:
            facts["token_variable"] = getattr(server, "auth_env", None)
    if request["profile"] is not None and profile_bootstrap is not None:
        document = attempt("profile.json", json.loads, request["profile"])
        if document is not None:
            attempt("profile.json", profile_bootstrap.store_from_profile, document)


examine()
print(json.dumps(facts), flush=True)
"""


# ---------------------------------------------------------------------------------------------------------- pure checks


@dataclass(frozen=True)
class Facts:
    """What the image's own loader made of a candidate. errors: (file, the loader's words)."""

    generation: Optional[str]
    version: Optional[str] = None
    tier_ids: Tuple[str, ...] = ()
    work_classes: Tuple[str, ...] = ()
    decisions: Tuple[str, ...] = ()
    profile_path: Optional[str] = None
    token_variable: Optional[str] = None
    errors: Tuple[Tuple[str, str], ...] = ()


def encode_text(where: str, text: str) -> bytes:
    """A file's bytes: UTF-8, line ends normalised to LF (the loader refuses CR)."""
    try:
        return text.replace("\r\n", "\n").encode("utf-8")
    except UnicodeEncodeError as exc:
        raise fail("not valid UTF-8", where=where, why="at character {0}".format(exc.start)) from exc


def _nearest(word: Any, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(word), known, 1)
    return "did you mean {0}? known: {1}".format(close[0], ", ".join(known)) if close else "known: " + ", ".join(known)


def check_profile(profile: Any, facts: Facts) -> List[Problem]:
    """What the router's loader lets through in a profile (already parsed JSON) and would then mis-route by."""
    if not isinstance(profile, dict):
        return [Problem("a profile must be a JSON object", where=PROFILE, why="it is a " + type(profile).__name__)]
    entries = profile.get("entries")
    if not isinstance(entries, list) or not entries:
        return [Problem("a profile must hold at least one entry", where=PROFILE + ": entries", why=repr(entries)[:80])]
    found: List[Problem] = []
    seen: Dict[Tuple[str, str], int] = {}
    for index, entry in enumerate(entries):
        where = "{0}: entries[{1}]".format(PROFILE, index)
        if not isinstance(entry, dict) or not entry:
            found.append(Problem("an entry must be a JSON object with keys", where=where, why=repr(entry)[:80]))
            continue
        tier, work = entry.get("tier_id"), entry.get("work_class")
        # An unreadable config has no tiers to compare with: its own error says what is wrong.
        if facts.tier_ids and tier not in facts.tier_ids:
            found.append(
                Problem("unknown tier {0!r}".format(tier), where=where + ".tier_id", hint=_nearest(tier, facts.tier_ids))
            )
        if facts.work_classes and work not in facts.work_classes:
            what = "unknown work class {0!r}".format(work)
            found.append(Problem(what, where=where + ".work_class", hint=_nearest(work, facts.work_classes)))
        if facts.decisions and entry.get("decision") not in facts.decisions:
            what = "unknown decision {0!r}".format(entry.get("decision"))
            found.append(Problem(what, where=where + ".decision", hint=_nearest(entry.get("decision"), facts.decisions)))
        score = entry.get("quality_score")
        if not isinstance(score, (int, float)) or isinstance(score, bool) or not 0 <= score <= 1:
            found.append(
                Problem("a quality score must be a number from 0 to 1", where=where + ".quality_score", why=repr(score)[:80])
            )
        samples = entry.get("sample_n")
        if not isinstance(samples, int) or isinstance(samples, bool) or samples < 0:
            found.append(Problem("a sample count must be a whole number", where=where + ".sample_n", why=repr(samples)[:80]))
        first = seen.setdefault((str(tier), str(work)), index)
        if first != index:
            why = "entries[{0}] already speaks of tier {1} and work class {2}; the last one would win".format(first, tier, work)
            found.append(Problem("a second entry for the same pair", where=where, why=why, hint="keep one of them"))
    return found


def check_paths(facts: Facts, has_profile: bool, profile_path: str) -> Tuple[List[Problem], List[str]]:
    """Whether the config reads the profile from where it is written; problems and warnings."""
    where = CONFIG + ": [router].profile_path"
    said = facts.profile_path
    if has_profile and said is None:
        return [
            Problem(
                "the profile would never be read",
                where=where,
                why="it is missing",
                hint='profile_path = "' + profile_path + '"',
            )
        ], []
    if has_profile and said != profile_path:
        why = "the router would read {0}, the profile is written to {1}".format(said, profile_path)
        return [
            Problem("the profile would never be read", where=where, why=why, hint='profile_path = "' + profile_path + '"')
        ], []
    if said == profile_path and not has_profile:
        return [
            Problem("it names a profile, and there is none", where=where, why=said, hint="give a profile, or drop the key")
        ], []
    if said is not None and said != profile_path:
        return [], ["{0} is {1}: that file is not promoted with the config".format(where, said)]
    return [], []


def judge(facts: Facts, files: Mapping[str, bytes], given: Sequence[str], mount: str, image: str) -> Verdict:
    """Everything that is wrong with a candidate, at once, as one ``AnvilError``; or the files to write.

    given: the files that the operator named, as opposed to those kept from the live revision.
    """
    if facts.generation is None:
        raise fail(
            "this image is no anvil-serving router",
            where="image " + image,
            why="; ".join(why for _where, why in facts.errors),
            hint="its python3 must be able to import anvil_serving.router.config",
        )
    asked = hash_revision(files)
    problems = [Problem("the router's own loader refuses it", where=where, why=why) for where, why in facts.errors]
    files = dict(files)
    if CONFIG not in files:
        problems.append(Problem("there is no config to promote", where=CONFIG, hint="the volume holds none yet: give one"))
    if facts.generation == GATEWAY_ROUTER and PROFILE in files:
        if PROFILE in given:
            why = "anvil-serving {0} routes by [router.model_routes]".format(facts.version)
            problems.append(Problem("this router reads no profile", where=PROFILE, why=why, hint="leave it out"))
        del files[PROFILE]
    warnings: List[str] = []
    if PROFILE in files:
        try:
            problems += check_profile(json.loads(files[PROFILE].decode("utf-8")), facts)
        except ValueError as exc:
            if not any(problem.where == PROFILE for problem in problems):
                problems.append(Problem("not JSON", where=PROFILE, why=str(exc)))
    if facts.generation == PROFILE_ROUTER and facts.tier_ids:
        wrong, warnings = check_paths(facts, PROFILE in files, mount + "/" + PROFILE)
        problems += wrong
    if problems:
        raise AnvilError(*problems)
    return Verdict(
        asked=asked,
        files=files,
        meta={"generation": facts.generation, "version": facts.version, "image": image},
        warnings=tuple(warnings),
    )


def parse_time(text: str) -> float:
    """Seconds since the epoch of the engine's RFC 3339 times (nanoseconds, UTC); 0 for 'never' (year 1)."""
    match = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(\.\d+)?Z", text)
    if match is None or match.group(1) == "0001":
        return 0.0
    whole = calendar.timegm(tuple(int(match.group(index)) for index in range(1, 7)))
    return whole + float(match.group(7) or 0)


def find_endpoint(found: Mapping[str, Any]) -> Optional[Tuple[str, int]]:
    """Where this router is reached from its host: its published port, else its own address; ``None`` if nowhere."""
    network = found.get("NetworkSettings") or {}
    ports = network.get("Ports") or {}
    tcp = sorted((int(name.split("/")[0]), bound) for name, bound in ports.items() if name.endswith("/tcp"))
    for _private, bound in tcp:
        for binding in bound or ():
            return published_address(str(binding.get("HostIp", "")), int(binding["HostPort"]))
    exposed = sorted(
        int(name.split("/")[0]) for name in (found.get("Config") or {}).get("ExposedPorts") or {} if name.endswith("/tcp")
    )
    if not exposed:
        return None
    if str((found.get("HostConfig") or {}).get("NetworkMode")) == "host":
        return ("127.0.0.1", exposed[0])
    for attached in (network.get("Networks") or {}).values():
        if attached.get("IPAddress"):
            return (str(attached["IPAddress"]), exposed[0])
    return None


# ----------------------------------------------------------------------------------------------------------------- HTTP


@dataclass(frozen=True)
class Reply:
    """status 0: no answer, and body says why."""

    status: int
    body: str


def request_http(
    endpoint: Tuple[str, int],
    method: str,
    path: str,
    timeout: float,
    *,
    body: Optional[Mapping[str, Any]] = None,
    token: str = "",
) -> Reply:
    """One request, never through a proxy; no answer is a ``Reply`` too."""
    headers = {"Connection": "close"}
    if token:
        headers["Authorization"] = "Bearer " + token
    content = None
    if body is not None:
        headers["Content-Type"] = "application/json"
        content = json.dumps(body).encode("utf-8")
    connection = http.client.HTTPConnection(endpoint[0].strip("[]"), endpoint[1], timeout=timeout)
    try:
        connection.request(method, path, body=content, headers=headers)
        answer = connection.getresponse()
        return Reply(answer.status, answer.read(4 * 1024 * 1024).decode("utf-8", "replace"))
    except (OSError, http.client.HTTPException) as exc:
        return Reply(0, "{0}: {1}".format(type(exc).__name__, exc))
    finally:
        connection.close()


# -------------------------------------------------------------------------------------------------------------- subject


@dataclass(frozen=True)
class RouterSetting:
    """Which router, and how patient we are with it.

    image: a reference; used where no container tells its own. mount: where the router mounts the config volume.
    grace: seconds for the process to end. start_timeout: seconds until it must answer. settle: seconds it must then
    stay up.
    """

    container: str
    volume: str
    mount: str
    image: str = ""
    grace: int = 10
    start_timeout: float = 30.0
    settle: float = 2.0

    @property
    def place(self) -> Place:
        return Place(volume=self.volume, mount=self.mount, replica=self.container, names=(CONFIG, PROFILE))


class Router:
    """One router container, as the subject of a promotion (``promotion.Subject``)."""

    def __init__(self, engine: Engine, setting: RouterSetting, order: Order) -> None:
        self.engine = engine
        self.setting = setting
        self.order = order
        self.found: Optional[Dict[str, Any]] = None
        self.generation = ""
        self.warnings: List[str] = []
        self._image_id = ""

    def look(self) -> View:
        self.found = self.engine.inspect_container(self.setting.container)
        if self.found is None:
            return View(exists=False)
        self._check_mount(self.found)
        state = self.found["State"]
        return View(
            exists=True,
            status=str(state["Status"]),
            container_id=str(self.found["Id"]),
            image_id=str(self.found["Image"]),
            started_at=parse_time(str(state["StartedAt"])),
            pid=int(state["Pid"]),
            restarts=int(self.found["RestartCount"]),
        )

    def _check_mount(self, found: Mapping[str, Any]) -> None:
        for mount in found.get("Mounts") or ():
            if mount.get("Destination") == self.setting.mount:
                if mount.get("Type") == "volume" and mount.get("Name") == self.setting.volume:
                    return
                why = "it mounts the {0} {1} there".format(mount.get("Type"), mount.get("Name") or mount.get("Source"))
                break
        else:
            why = "nothing is mounted there"
        raise fail(
            "the container does not read its files from volume {0} at {1}".format(self.setting.volume, self.setting.mount),
            where="container " + self.setting.container,
            why=why,
            hint="name the volume and mount that it uses, or bring the router up again from its compose file",
        )

    def recall(self, meta: Mapping[str, Any]) -> None:
        self.generation = self.generation or str(meta.get("generation") or "")

    def image_for_side_containers(self) -> str:
        """The id of the image that reads the files next: the container's own, unless it is about to be replaced."""
        if self._image_id:
            return self._image_id
        named = self.engine.inspect_image(self.setting.image) if self.setting.image else None
        own = str(self.found["Image"]) if self.found is not None else ""
        if own and not (named is not None and not self.order.reload):
            if named is not None and str(named["Id"]) != own:
                self.warnings.append(
                    "container {0} runs image {1}, not {2}: validated with what it runs".format(
                        self.setting.container, own[7:19], self.setting.image
                    )
                )
            self._image_id = own
        elif named is not None:
            self._image_id = str(named["Id"])
        else:
            raise fail(
                "no router image to validate with",
                where="image {0}".format(self.setting.image or "(none given)"),
                why="container {0} does not exist, and the image is not on this host".format(self.setting.container),
                hint="build or pull the image first, or give its reference; nothing is pulled here",
            )
        return self._image_id

    def endpoint(self) -> Optional[Tuple[str, int]]:
        if self.found is None or not is_local(self.engine.docker_host):
            return None
        return find_endpoint(self.found)

    def answers(self) -> bool:
        endpoint = self.endpoint()
        return endpoint is None or request_http(endpoint, "GET", "/healthz", 2.0).status == 200

    def is_healthy(self, view: View) -> bool:
        age = time.time() - view.started_at
        if view.status != "running" or (view.restarts > 0 and age < CRASH_WINDOW):
            return False
        return self.answers() or (0 <= age < STARTING and wait_for(self.answers, STARTING - age))

    # -------------------------------------------------------------------------------------------------------- validate

    def validate(self, files: Mapping[str, bytes]) -> Verdict:
        image = self.image_for_side_containers()
        facts = self._examine(image, files)
        self.generation = facts.generation or self.generation
        verdict = judge(facts, files, tuple(self.order.files), self.setting.mount, image)
        warnings = [*self.warnings, *verdict.warnings, *self._check_token(facts)]
        self.warnings = []
        return replace(verdict, warnings=tuple(warnings))

    def _examine(self, image: str, files: Mapping[str, bytes]) -> Facts:
        request: Dict[str, Any] = {}
        problems = []
        for key, name in (("config", CONFIG), ("profile", PROFILE)):
            request[key + "_path"] = self.setting.mount + "/" + name
            try:
                request[key] = files[name].decode("utf-8") if name in files else None
            except UnicodeDecodeError as exc:
                problems.append(Problem("not valid UTF-8", where=name, why=str(exc)))
        if problems:
            raise AnvilError(*problems)
        process = self.engine.open_process(
            image,
            ["-c", VALIDATOR],
            entrypoint=["python3"],
            user="65534:65534",
            working_dir="/",
            environment={"HOME": self.setting.mount, "PYTHONDONTWRITEBYTECODE": "1"},
            labels={LABEL_OWNER: describe_owner()},
            healthcheck={"test": ["NONE"]},
            host_config={
                "network_mode": "none",
                "cap_drop": ["ALL"],
                "security_opt": ["no-new-privileges"],
                "read_only": True,
                "pids_limit": 64,
                # The candidate lies where the router will read it, so that the loader's messages name the right path.
                "tmpfs": {self.setting.mount: "size=32m,mode=0700,uid=65534,gid=65534"},
            },
        )
        try:
            process.send(json.dumps(request).encode("utf-8") + b"\n")
            said = json.loads(process.read_line(60).decode("utf-8"))
        except AnvilError as exc:
            raise fail(
                "the validation itself failed",
                where="image " + image[7:19],
                why=exc.problems[0].why,
                hint="does the image have python3 and anvil_serving?",
                log=exc.problems[0].log,
            ) from exc
        finally:
            process.close()
        said["errors"] = tuple((str(item["where"]), str(item["why"])) for item in said["errors"])
        for key in ("tier_ids", "work_classes", "decisions"):
            said[key] = tuple(said[key])
        return Facts(**said)

    def _check_token(self, facts: Facts) -> List[str]:
        """Whether the token variable that the config names is set where the router will look for it."""
        if self.found is None or not facts.token_variable or not self.order.reload:
            return []
        start = facts.token_variable + "="
        if any(line.startswith(start) and line[len(start) :].strip() for line in self.found["Config"].get("Env") or ()):
            return []
        problem = Problem(
            "the token variable {0} is not set in the router's environment".format(facts.token_variable),
            where=CONFIG + ": [server].auth_env",
            why="container {0} would refuse to start".format(self.setting.container),
            hint="bring the router up with it first, or promote with reload: false before the container is replaced",
        )
        # A gateway router may still find it in a dotenv file of its own: only its start can tell.
        if facts.generation == GATEWAY_ROUTER:
            return [problem.as_text()]
        raise AnvilError(problem)

    # ---------------------------------------------------------------------------------------------- reload and verify

    def reload(self, patient: bool) -> None:
        """Restart it: neither generation can reload. A profile router ignores SIGTERM, but ends at once on SIGINT.

        A process that has only just been started ignores SIGTERM too: a crash loop is given one second, not the grace.
        """
        found = self.found or {}
        crashing = found.get("RestartCount", 0) > 0 or (found.get("State") or {}).get("Status") != "running"
        grace = self.setting.grace if patient and not crashing else min(1, self.setting.grace)
        own = str((found.get("Config") or {}).get("StopSignal") or "SIGTERM")
        signal = "SIGINT" if self.generation == PROFILE_ROUTER and own == "SIGTERM" else ""
        self.engine.restart_container(self.setting.container, grace, signal)

    def verify(self, place: Place, revision: Optional[str], switched_at: float) -> Proof:
        began = time.monotonic()
        first = self.look()
        if not first.has_loaded(switched_at):
            raise self._sick("it was not started after the switch", first)
        endpoint = self.endpoint()
        steady_since = time.monotonic() if endpoint is None else 0.0
        last = "it was not asked yet"
        while True:
            now = self.look()
            # docker restart resets RestartCount to 0: any restart since then counts, however it looks at this moment.
            if now.status != "running" or now.restarts > 0 or (now.started_at, now.pid) != (first.started_at, first.pid):
                raise self._sick("it does not stay up: {0}, restarted {1} times".format(now.status, now.restarts), now)
            if endpoint is not None:
                reply = request_http(endpoint, "GET", "/healthz", 2.0)
                if reply.status != 200:
                    last = reply.body[:200] if reply.status == 0 else "status {0}".format(reply.status)
                    if steady_since:
                        raise self._sick("/healthz answered and then did not: " + last, now)
                elif not steady_since:
                    steady_since = time.monotonic()
            if steady_since and time.monotonic() - steady_since >= self.setting.settle:
                break
            if not steady_since and time.monotonic() - began > self.setting.start_timeout:
                raise self._sick("/healthz did not answer within {0:g} s: {1}".format(self.setting.start_timeout, last), now)
            time.sleep(0.1)
        seen = read_snapshot(self.engine, first.container_id, place)
        if seen.live != revision or hash_revision(seen.observed()) != revision:
            raise self._sick("it does not see the files of revision {0}".format(short(revision)), first)
        if endpoint is None:
            self.warnings.append("the router publishes no port that this host can reach: /healthz was not asked")
        started_at = str((self.found or {}).get("State", {}).get("StartedAt", ""))
        return Proof(started_at=started_at, pid=first.pid, seconds=round(time.monotonic() - began, 3))

    def _sick(self, why: str, view: View) -> AnvilError:
        log = self.engine.read_log(self.setting.container, lines=15) if view.exists else []
        return fail("the router did not come up", where="container " + self.setting.container, why=why, log=log)


# ---------------------------------------------------------------------------------------------------------------- verbs


def has_image(engine: Engine, reference: str) -> bool:
    return bool(reference) and engine.inspect_image(reference) is not None


def promote_router(engine: Engine, setting: RouterSetting, order: Order) -> Outcome:
    """Promote or roll back; see ``promotion.promote``. In check mode a host that has no router image yet is fine."""
    router = Router(engine, setting, order)
    if (
        order.check
        and not order.rollback_to
        and engine.inspect_container(setting.container) is None
        and not has_image(engine, setting.image)
    ):
        return Outcome(
            changed=not order.validate_only,
            old=None,
            new=hash_revision(order.files),
            before={},
            after=order.files,
            actions=("switch to " + short(hash_revision(order.files)),),
            warnings=("image {0} is not on this host yet: nothing was validated".format(setting.image or "(none given)"),),
        )
    outcome = promote(engine, router, setting.place, order)
    return replace(outcome, warnings=outcome.warnings + tuple(router.warnings))


def setting_from(given: Mapping[str, Any]) -> RouterSetting:
    """The setting of a module's parameters; those that a module does not have keep their defaults."""
    names = [each.name for each in fields(RouterSetting)]
    return RouterSetting(**{name: given[name] for name in names if name in given})


def order_from(given: Mapping[str, Any], check: bool) -> Order:
    """The order of the promote module's parameters."""
    back = given["state"] == "rolled_back"
    texts = {CONFIG: given["config"], PROFILE: given["profile"]}
    if back and any(text is not None for text in texts.values()):
        raise fail("a roll-back takes its files from a revision", where="state", hint="leave out config and profile")
    if back and not re.fullmatch(r"previous|[0-9a-f]{4,64}", given["revision"]):
        raise fail(
            "not a revision",
            where="revision",
            why=repr(given["revision"]),
            hint="previous, or 4 to 64 digits of its sha256",
        )
    if given["keep"] < 2:
        raise fail(
            "too few revisions to keep",
            where="keep",
            why=str(given["keep"]),
            hint="at least 2: the live one and the one before",
        )
    for name in ("grace", "start_timeout", "settle", "lock_timeout"):
        if not 0 <= given[name] <= 3600:
            raise fail("not a sensible time", where=name, why=str(given[name]), hint="0 to 3600 seconds")
    return Order(
        files={name: encode_text(name, text) for name, text in texts.items() if text is not None},
        rollback_to=given["revision"] if back else "",
        keep=given["keep"],
        reload=given["reload"],
        check=check,
        validate_only=given["validate_only"],
        lock_wait=given["lock_timeout"],
    )


def describe_outcome(outcome: Outcome, with_diff: bool) -> Dict[str, Any]:
    """An outcome as the promote module returns it. The files only name secrets' variables: a diff may show them."""
    told: Dict[str, Any] = {
        "changed": outcome.changed,
        "revision": {"old": outcome.old, "new": outcome.new},
        "actions": list(outcome.actions),
        "reloaded": outcome.reloaded,
        "verified": None if outcome.proof is None else asdict(outcome.proof),
        "history": list(outcome.history),
    }
    if with_diff:
        told["diff"] = [
            {
                "before_header": "{0} ({1})".format(name, short(outcome.old)),
                "after_header": "{0} ({1})".format(name, short(outcome.new)),
                "before": outcome.before.get(name, b"").decode("utf-8", "replace"),
                "after": outcome.after.get(name, b"").decode("utf-8", "replace"),
            }
            for name in sorted({*outcome.before, *outcome.after})
            if outcome.before.get(name) != outcome.after.get(name)
        ]
    return told


@dataclass(frozen=True)
class Answer:
    """What a tier said to one chat completion. status 0: no answer. seconds: until the whole answer was there."""

    ok: bool
    status: int
    text: str
    seconds: float


def read_router(engine: Engine, setting: RouterSetting) -> Dict[str, Any]:
    """The router's state, its live revision and history. Absence is not a failure."""
    router = Router(engine, setting, Order(files={}))
    view = router.look()
    told: Dict[str, Any] = {
        "exists": view.exists,
        "state": view.status,
        "container_id": view.container_id,
        "image_id": view.image_id,
        "started_at": str(router.found["State"]["StartedAt"]) if router.found else "",
        "restarts": view.restarts,
        "healthy": False,
        "endpoint": "",
        "token_set": None,
        "unauthorized_status": None,
        "revision": None,
        "generation": None,
        "version": None,
        "in_flight": None,
        "loaded": None,
        "history": [],
    }
    endpoint = router.endpoint()
    if endpoint is not None and view.status == "running":
        told["endpoint"] = "http://{0}:{1}".format(*endpoint)
        told["healthy"] = router.answers()
        status = request_http(endpoint, "GET", "/v1/models", 5.0).status
        told["unauthorized_status"] = status
        told["token_set"] = None if status == 0 else status in (401, 403)
    if not view.exists and (engine.inspect_volume(setting.volume) is None or not has_image(engine, setting.image)):
        return told
    snapshot = read_place(engine, router, setting.place, view)
    journal = parse_journal(snapshot.journal, "volume " + setting.volume)
    meta = snapshot.meta_of(snapshot.live) if snapshot.live else {}
    told["revision"] = snapshot.live
    told["generation"], told["version"] = meta.get("generation"), meta.get("version")
    told["in_flight"] = journal.state if journal is not None and journal.in_flight else None
    told["loaded"] = is_loaded(journal, snapshot, view) if snapshot.live and view.is_up else None
    told["history"] = list(list_history(snapshot, journal))
    return told


@dataclass(frozen=True)
class Question:
    """What the tiers are asked. timeout: seconds per completion."""

    models: Sequence[str]
    prompt: str
    max_tokens: int
    token: str = field(default="", repr=False)
    timeout: float = 60.0


def ask_tiers(engine: Engine, setting: RouterSetting, question: Question) -> Dict[str, Answer]:
    """One real chat completion per model through the router; an ``AnvilError`` names every one that failed."""
    if not (question.token.isascii() and question.token.isprintable()):
        raise fail("not a token", where="token", why="it holds characters that no HTTP header may", hint="a line end?")
    router = Router(engine, setting, Order(files={}))
    view = router.look()
    endpoint = router.endpoint()
    if view.status != "running" or endpoint is None:
        why = "it is {0}".format(view.status) if view.status != "running" else "it publishes no port that this host can reach"
        log = engine.read_log(setting.container, lines=15) if view.exists else []
        raise fail("the router cannot be asked", where="container " + setting.container, why=why, log=log)

    def ask(model: str) -> Answer:
        messages = [{"role": "user", "content": question.prompt}]
        body = {"model": model, "messages": messages, "max_tokens": question.max_tokens, "stream": False}
        patience = time.monotonic() + min(question.timeout, NOT_READY)
        while True:
            began = time.monotonic()
            path = "/v1/chat/completions"
            reply = request_http(endpoint, "POST", path, question.timeout, body=body, token=question.token)
            seconds = round(time.monotonic() - began, 3)
            if reply.status not in (0, 503) or time.monotonic() + 0.5 > patience:
                return read_answer(reply, seconds)
            time.sleep(0.5)

    with ThreadPoolExecutor(max_workers=max(1, min(8, len(question.models)))) as pool:
        answers = dict(zip(question.models, pool.map(ask, question.models)))
    failed = [model for model in question.models if not answers[model].ok]
    if failed:
        said = tuple(engine.read_log(setting.container, lines=15))
        raise AnvilError(
            *[
                Problem(
                    "no answer through the router",
                    where="model {0} at http://{1}:{2}".format(model, *endpoint),
                    why="status {0}: {1}".format(answers[model].status, answers[model].text[:300]),
                    hint=_advise(answers[model].status, question.token),
                    log=said if model == failed[-1] else (),
                )
                for model in failed
            ]
        )
    return answers


def read_answer(reply: Reply, seconds: float) -> Answer:
    """The text of a chat completion; whatever is not a completion with some text is not ok."""
    try:
        text = json.loads(reply.body)["choices"][0]["message"]["content"] if reply.status == 200 else None
    except (ValueError, KeyError, IndexError, TypeError):
        text = None
    if isinstance(text, str) and text.strip():
        return Answer(True, reply.status, text, seconds)
    return Answer(False, reply.status, reply.body, seconds)


def _advise(status: int, token: str) -> str:
    if status in (401, 403):
        return "the router refused the token that was given" if token else "the router wants a token: give it"
    if status in (404, 400):
        return "is this model in the router's config? its /v1/models lists what it knows"
    if status == 503:
        return "the tier behind it is down, or the profile denies every tier for this request"
    return "look at the router's log and at the serve behind it"
