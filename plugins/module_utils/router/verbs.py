# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The router's verbs: promote its files, tell its state, ask its tiers.

Two generations are served. A *profile* router (anvil-serving 0.12 to 0.13.2) reads config.toml and profile.json; a
*gateway* router (0.35.1 to 2.0.2) reads config.toml only. Which one an image holds is found out in the image itself.
"""

from __future__ import annotations

import calendar
import json
import re
import secrets
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.probes import Probe, parse_probes, probe_from_meta
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.http_request import Reply, request_http
from ansible_collections.anvil.serving.plugins.module_utils.docker.connection import is_local
from ansible_collections.anvil.serving.plugins.module_utils.docker.container_inspect import find_endpoint
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.revisions import Place, hash_revision
from ansible_collections.anvil.serving.plugins.module_utils.docker.side_containers import LABEL_OWNER, confine, describe_owner
from ansible_collections.anvil.serving.plugins.module_utils.docker.volume_reader import read_snapshot
from ansible_collections.anvil.serving.plugins.module_utils.router.candidate import (
    CONFIG,
    GATEWAY_ROUTER,
    PROFILE,
    PROFILE_ROUTER,
    VALIDATOR,
    Facts,
    encode_text,
    facts_from,
    judge,
)
from ansible_collections.anvil.serving.plugins.module_utils.router.dry_boot import (
    DryBoot,
    list_folders,
    mount_reads,
    plan_stage,
)
from ansible_collections.anvil.serving.plugins.module_utils.router.edge import MAINT, Edge
from ansible_collections.anvil.serving.plugins.module_utils.router.probe_runner import run_probes, send_probe
from ansible_collections.anvil.serving.plugins.module_utils.router.promotion import (
    LIFETIME,
    Crew,
    Member,
    Order,
    Outcome,
    Proof,
    Rehearsal,
    Verdict,
    View,
    find_revision,
    is_loaded,
    list_history,
    look_at,
    parse_journal,
    promote,
    read_place,
    short,
    wait_for,
)

HEALTH = Probe("health", "/healthz", timeout=2.0)
STOCK_PROFILE = re.compile(r'(?m)^(\s*profile_path\s*=\s*)(["\'])([^"\'\n]*)\2')

# A router that was started this recently may still be on its way up (seconds).
STARTING = 15.0


def parse_time(text: str) -> float:
    """Seconds since the epoch of the engine's RFC 3339 times (nanoseconds, UTC); 0 for 'never' (year 1)."""
    match = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(\.\d+)?Z", text)
    if match is None or match.group(1) == "0001":
        return 0.0
    whole = calendar.timegm(tuple(int(match.group(index)) for index in range(1, 7)))
    return whole + float(match.group(7) or 0)


# -------------------------------------------------------------------------------------------------------------- subject


@dataclass(frozen=True)
class RouterSetting:
    """Which router, and how patient we are with it.

    image: a reference; used where no container tells its own. mount: where the router mounts the config volume.
    replicas: containers that share the volume, each with a pointer of its own; empty: ``container`` alone, which reads
    the stock paths. edge: the container that leads clients to the replicas. drain_timeout: seconds until requests in
    flight must have ended. grace: seconds for the process to end. start_timeout: seconds until it must answer. settle:
    seconds it must then stay up. environment: what a router that is not there yet will get.
    validator, health_path, reload_signal: of a container that is no router. folders: path -> folder of the host that it
    will mount read-only, besides what it does mount.
    """

    container: str
    volume: str
    mount: str
    image: str = ""
    replicas: Tuple[str, ...] = ()
    edge: str = ""
    drain_timeout: float = 330.0
    grace: int = 10
    start_timeout: float = 30.0
    settle: float = 2.0
    dry_boot: bool = True
    probes: Tuple[Probe, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    validator: Tuple[str, ...] = ()
    health_path: str = ""
    reload_signal: str = ""
    folders: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> Tuple[str, ...]:
        return self.replicas or (self.container,)

    def place_for(self, names: Sequence[str]) -> Place:
        return Place(volume=self.volume, mount=self.mount, replica=self.names[0], names=tuple(names))

    @property
    def place(self) -> Place:
        return self.place_for((CONFIG, PROFILE))


class Reader:
    """One container that reads its files from a volume, as the subject of a promotion (``promotion.Subject``)."""

    def __init__(self, engine: DockerEngine, setting: RouterSetting, order: Order) -> None:
        self.engine = engine
        self.setting = setting
        self.order = order
        self.found: Optional[Dict[str, Any]] = None
        self.health: Optional[Probe] = None
        self.probes: Tuple[Probe, ...] = setting.probes
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
            hint="name the volume and mount that it uses, or bring it up again from its compose file",
        )

    def recall(self, meta: Mapping[str, Any], wanted: bool) -> None:
        self.probes = self.setting.probes if wanted else ()

    def arrange(self, files: Mapping[str, bytes]) -> Dict[str, bytes]:
        return dict(files)

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
                "no image to validate with",
                where="image {0}".format(self.setting.image or "(none given)"),
                why="container {0} does not exist, and the image is not on this host".format(self.setting.container),
                hint="build or pull the image first, or give its reference; nothing is pulled here",
            )
        return self._image_id

    def endpoint(self) -> Optional[Tuple[str, int]]:
        if self.found is None or not is_local(self.engine.docker_host):
            return None
        return find_endpoint(self.found)

    def token(self) -> str:
        return ""

    def ask(self, probe: Probe) -> Reply:
        endpoint = self.endpoint()
        if endpoint is None:
            return Reply(0, "it publishes no port that this host can reach")
        return send_probe(endpoint, probe, self.token())

    def can_be_asked(self) -> bool:
        return self.endpoint() is not None

    def answers(self) -> bool:
        return self.health is None or not self.can_be_asked() or self.ask(self.health).status == 200

    def is_healthy(self, view: View) -> bool:
        age = time.time() - view.started_at
        if view.status != "running" or view.is_looping(time.time()):
            return False
        return self.answers() or (0 <= age < STARTING and wait_for(self.answers, STARTING - age))

    def validate(self, files: Mapping[str, bytes]) -> Verdict:
        raise NotImplementedError

    def core(self, files: Mapping[str, bytes]) -> Dict[str, bytes]:
        return dict(files)

    def rehearse(self, verdict: Verdict, lifetime: float) -> Optional[Rehearsal]:
        return None

    # ---------------------------------------------------------------------------------------------- reload and verify

    def stop_signal(self) -> str:
        """What ends it without waiting for the grace period; empty for its own."""
        return ""

    def reload(self, patient: bool) -> bool:
        """Restart it, or tell it by signal where the setting says so.

        A process that has only just been started ignores SIGTERM too: a crash loop is given one second, not the grace.
        """
        found = self.found or {}
        status = (found.get("State") or {}).get("Status")
        crashing = found.get("RestartCount", 0) > 0 or status != "running"
        if self.setting.reload_signal and patient and not crashing:
            self.engine.signal_container(self.setting.container, self.setting.reload_signal)
            return False
        if status == "paused":
            raise fail(
                "a paused container cannot be restarted",
                where="container " + self.setting.container,
                hint="docker unpause " + self.setting.container,
            )
        grace = self.setting.grace if patient and not crashing else min(1, self.setting.grace)
        self.engine.restart_container(self.setting.container, grace, self.stop_signal())
        return True

    def verify(self, place: Place, revision: Optional[str], switched_at: float, lifetime: float) -> Proof:
        """Same process, no restart, healthy, every probe answered as it must be, and then still so for the settle time, and
        until it has lived for ``lifetime`` seconds.
        """
        began = time.monotonic()
        was = self.found
        first = self.look()
        told = bool(self.setting.reload_signal) and was is not None and was["State"]["StartedAt"] == self._started()
        if not told and not first.has_loaded(switched_at):
            raise self._sick("it was not started after the switch", first)
        health = self.health if self.can_be_asked() else None
        proven = False
        steady_since = 0.0
        last = "it was not asked yet"
        while True:
            now = self.look()
            # docker restart resets RestartCount to 0: any restart since then counts, however it looks at this moment.
            restarted = now.restarts > (first.restarts if told else 0)
            if now.status != "running" or restarted or (now.started_at, now.pid) != (first.started_at, first.pid):
                raise self._sick("it does not stay up: {0}, restarted {1} times".format(now.status, now.restarts), now)
            reply = self.ask(health) if health is not None else Reply(200, "")
            if reply.status != 200:
                last = reply.body[:200] if reply.status == 0 else "status {0}".format(reply.status)
                if proven:
                    raise self._sick("{0} answered and then did not: {1}".format(health.path if health else "it", last), now)
                if time.monotonic() - began > self.setting.start_timeout:
                    path = health.path if health else "it"
                    why = "{0} did not answer 200 within {1:g} s: {2}".format(path, self.setting.start_timeout, last)
                    raise self._sick(why, now)
            elif not proven:
                self._prove(now)
                proven, steady_since = True, time.monotonic()
            elif time.monotonic() - steady_since >= self.setting.settle and time.monotonic() - began >= lifetime:
                break
            time.sleep(0.1 if proven else 0.02)
        seen = read_snapshot(self.engine, first.container_id, place)
        if seen.live != revision or hash_revision(seen.files_of(seen.live or "")) != revision:
            raise self._sick("it does not see the files of revision {0}".format(short(revision)), first)
        if self.health is not None and health is None:
            self.warnings.append("the router publishes no port that this host can reach: it was not asked")
        return Proof(started_at=self._started(), pid=first.pid, seconds=round(time.monotonic() - began, 3))

    def check_still(self, proof: Proof) -> None:
        now = self.look()
        if now.status != "running" or (self._started(), now.pid) != (proof.started_at, proof.pid):
            raise self._sick("it did not stay up: {0}, restarted {1} times".format(now.status, now.restarts), now)
        if not self.answers():
            raise self._sick("it answered, and does not any more", now)

    def _prove(self, view: View) -> None:
        """Ask the probes of the revision that is being verified."""
        if not self.probes or not self.can_be_asked():
            return
        problems, warnings = run_probes(self.probes, self.ask)
        self.warnings.extend(warning for warning in warnings if warning not in self.warnings)
        if problems:
            raise AnvilError(*self._sick("it answers, but not as this revision must", view).problems, *problems)

    def _started(self) -> str:
        return str((self.found or {"State": {"StartedAt": ""}})["State"]["StartedAt"])

    def _sick(self, why: str, view: View) -> AnvilError:
        log = self.engine.read_log(self.setting.container, lines=15) if view.exists else []
        return fail("it did not come up", where="container " + self.setting.container, why=why, log=log)


class Router(Reader):
    """An anvil-serving router of either generation."""

    def __init__(self, engine: DockerEngine, setting: RouterSetting, order: Order) -> None:
        super().__init__(engine, setting, order)
        self.health = HEALTH
        self.generation = ""
        self.token_variable = ""

    def recall(self, meta: Mapping[str, Any], wanted: bool) -> None:
        super().recall(meta, wanted)
        self.generation = str(meta.get("generation") or self.generation)
        self.token_variable = str(meta.get("token_variable") or "")
        # Without the token nothing but /healthz can be asked (a gateway router may read it from a file of its own).
        if not self.token_variable or self.token():
            self.probes = (*(probe_from_meta(each) for each in meta.get("probes") or ()), *self.probes)

    def token(self) -> str:
        start = self.token_variable + "="
        for line in (self.found or {"Config": {}})["Config"].get("Env") or ():
            if self.token_variable and line.startswith(start):
                return str(line[len(start) :]).strip()
        return ""

    def stop_signal(self) -> str:
        """A profile router ignores SIGTERM as process 1, but ends at once on SIGINT."""
        own = str(((self.found or {}).get("Config") or {}).get("StopSignal") or "SIGTERM")
        return "SIGINT" if self.generation == PROFILE_ROUTER and own == "SIGTERM" else ""

    # ------------------------------------------------------------------------------------------------ replicas' paths

    def profile_path(self) -> str:
        """Where the config must say that the profile is. One path for all replicas would be a shared pointer: theirs is
        relative to the folder that each runs in, its own pointer.
        """
        return PROFILE if self.setting.replicas else self.setting.mount + "/" + PROFILE

    def arrange(self, files: Mapping[str, bytes]) -> Dict[str, bytes]:
        """Let a config say what ``profile_path`` tells, where it names the place of a router without replicas."""
        made = dict(files)
        if self.setting.replicas and CONFIG in made:
            text = made[CONFIG].decode("utf-8", "surrogateescape")
            made[CONFIG] = STOCK_PROFILE.sub(self._put_path, text, count=1).encode("utf-8", "surrogateescape")
        return made

    def _put_path(self, match: re.Match[str]) -> str:
        known = match.group(3) == self.setting.mount + "/" + PROFILE
        return '{0}"{1}"'.format(match.group(1), self.profile_path()) if known else match.group(0)

    def look(self) -> View:
        view = super().look()
        folder = "{0}/{1}".format(self.setting.mount, self.setting.place.link_of(self.setting.container))
        runs_in = str(((self.found or {}).get("Config") or {}).get("WorkingDir") or "/")
        if view.exists and self.setting.replicas and runs_in != folder and self.order.reload:
            raise fail(
                "the replica does not read its files through its own pointer",
                where="container " + self.setting.container,
                why="it runs in {0}, not in {1}".format(runs_in, folder),
                hint="bring the router up again from its compose file",
            )
        return view

    # -------------------------------------------------------------------------------------------------------- validate

    def validate(self, files: Mapping[str, bytes]) -> Verdict:
        image = self.image_for_side_containers()
        facts = self._examine(image, files)
        self.generation = facts.generation or self.generation
        self.token_variable = facts.token_variable or ""
        verdict = judge(facts, files, tuple(self.order.files), self.profile_path(), image)
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
            # The candidate lies where the router will read it, so that the loader's messages name the right path.
            host_config=confine(tmpfs={self.setting.mount: "size=32m,mode=0700,uid=65534,gid=65534"}),
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
            process.release()
        return facts_from(said)

    def _check_token(self, facts: Facts) -> List[str]:
        """Whether the token variable that the config names is set where the router will look for it."""
        if self.found is None or not facts.token_variable or not self.order.reload:
            return []
        if self.token():
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

    # -------------------------------------------------------------------------------------------------------- dry boot

    def core(self, files: Mapping[str, bytes]) -> Dict[str, bytes]:
        """A profile is a table that the router reads once and then looks scores up in."""
        return {name: content for name, content in files.items() if name != PROFILE}

    def rehearse(self, verdict: Verdict, lifetime: float) -> Optional[Rehearsal]:
        if not self.setting.dry_boot:
            return None
        image = self.engine.inspect_image(self.image_for_side_containers())
        if image is None:
            raise fail("the image is gone", where="image " + self.image_for_side_containers())
        variable = str(verdict.meta.get("token_variable") or "")
        stand_in = (variable, secrets.token_urlsafe(16))
        stage = plan_stage(image, self.found, self.setting.mount, self.setting.environment, stand_in)
        if self.setting.replicas:
            folder = "{0}/{1}".format(self.setting.mount, self.setting.place.link_of(self.setting.container))
            stage = replace(stage, working_dir=folder)
        files = {
            folder + name: content
            for folder in ("", *(".anvil/live/{0}/".format(name) for name in self.setting.names))
            for name, content in verdict.files.items()
        }
        probes = [probe_from_meta(each) for each in verdict.meta.get("probes") or ()]
        if variable and not stage.token:
            probes = []
        # An engine of its own: it works while the lock is taken.
        boot = DryBoot(DockerEngine(self.engine.docker_host), stage, files)
        return Trial(boot, (*probes, *self.setting.probes), verdict.meta.get("tiers") or (), self.setting.start_timeout, lifetime)


class Trial:
    """A dry boot under way, in a thread (``promotion.Rehearsal``)."""

    def __init__(
        self,
        boot: DryBoot,
        probes: Sequence[Probe],
        tiers: Sequence[Mapping[str, Any]],
        seconds: float,
        lifetime: float,
    ) -> None:
        self.boot = boot
        self.lifetime = lifetime
        until = time.monotonic() + lifetime
        self._pool = ThreadPoolExecutor(1)
        self._told = False
        self._closed = False

        def work() -> Tuple[str, ...]:
            unreachable = boot.find_unreachable(tiers)
            boot.wait_healthy(HEALTH, seconds)
            warnings = (*unreachable, *boot.prove(probes))
            while time.monotonic() < until:
                time.sleep(0.1)
                boot.check_alive(HEALTH)
            return warnings

        self._future: Future[Tuple[str, ...]] = self._pool.submit(work)

    def confirm(self) -> Tuple[str, ...]:
        warnings = self._future.result()
        self.boot.check_alive(HEALTH)
        first, self._told = not self._told, True
        return warnings if first else ()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.boot.close()
            self._pool.shutdown(wait=False)


class Files(Reader):
    """Any container whose configuration lives in a volume. What validates it is a command of its own image."""

    def __init__(self, engine: DockerEngine, setting: RouterSetting, order: Order) -> None:
        super().__init__(engine, setting, order)
        self.health = Probe("health", setting.health_path, timeout=2.0) if setting.health_path else None

    def list_mounts(self) -> List[Dict[str, Any]]:
        """What the container only reads, for one that tries its files; they lie in an anonymous volume where it reads them."""
        reads = list_folders(self.found or {}, self.setting.mount)[0]
        reads.update((path, ("bind", source)) for path, source in self.setting.folders.items())
        return [*mount_reads(reads), {"Type": "volume", "Target": self.setting.mount}]

    def validate(self, files: Mapping[str, bytes]) -> Verdict:
        image = self.image_for_side_containers()
        asked = hash_revision(files)
        if self.setting.validator:
            done = self.engine.run_side_container(
                image,
                list(self.setting.validator[1:]),
                files=files,
                folder=self.setting.mount,
                entrypoint=[self.setting.validator[0]],
                labels={LABEL_OWNER: describe_owner()},
                healthcheck={"test": ["NONE"]},
                host_config=confine(
                    tmpfs={"/tmp": "size=32m", "/run": "size=8m,mode=0777"},
                    mounts=self.list_mounts(),
                ),
            )
            if done.exit_code:
                raise fail(
                    "its validator refuses the candidate",
                    where=" ".join(self.setting.validator),
                    why="exit code {0}".format(done.exit_code),
                    log=done.output.splitlines()[-20:],
                )
        warnings = tuple(self.warnings)
        self.warnings = []
        if not self.setting.validator:
            warnings += ("nothing validated these files: no validator was given",)
        return Verdict(asked=asked, files=files, meta={"image": image}, warnings=warnings)


# ---------------------------------------------------------------------------------------------------------------- verbs


@dataclass(frozen=True)
class EdgeGate:
    """The edge, as that which leads clients to the replicas (``promotion.Gate``)."""

    edge: Edge
    drain_timeout: float
    up_timeout: float

    def find_closed(self) -> List[str]:
        return [server.name for server in self.edge.read_servers() if server.status == MAINT]

    def close(self, replica: str) -> None:
        self.edge.drain(replica, self.drain_timeout)

    def open(self, replica: str) -> None:
        self.edge.readmit(replica, self.up_timeout)


def has_image(engine: DockerEngine, reference: str) -> bool:
    return bool(reference) and engine.inspect_image(reference) is not None


def gather_crew(engine: DockerEngine, setting: RouterSetting, order: Order) -> Crew:
    """Everyone who reads the volume."""
    kind = Files if order.whole else Router
    members = tuple(Member(name, kind(engine, replace(setting, container=name), order)) for name in setting.names)
    # Where there is one replica only, draining it would be the outage that it is to prevent.
    led = bool(setting.edge) and len(members) > 1
    gate = EdgeGate(Edge(engine, setting.edge), setting.drain_timeout, setting.start_timeout) if led else None
    return Crew(members, gate)


def promote_router(engine: DockerEngine, setting: RouterSetting, order: Order) -> Outcome:
    """Promote or roll back; see ``promotion.promote``. In check mode a host that has no router image yet is fine."""
    return promote_crew(engine, setting, order, gather_crew(engine, setting, order))


def promote_crew(engine: DockerEngine, setting: RouterSetting, order: Order, crew: Crew) -> Outcome:
    """As ``promote_router``, for a crew of any kind."""
    if (
        order.check
        and not order.rollback_to
        and all(engine.inspect_container(name) is None for name in setting.names)
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
    place = setting.place_for(_choose_names(engine, crew, setting, order)) if order.whole else setting.place
    outcome = promote(engine, crew, place, order)
    warnings = [warning for member in crew.members for warning in getattr(member.subject, "warnings", ())]
    return replace(outcome, warnings=tuple(dict.fromkeys((*outcome.warnings, *warnings))))


def _choose_names(engine: DockerEngine, crew: Crew, setting: RouterSetting, order: Order) -> Tuple[str, ...]:
    """The paths that are ours: those of the candidate and those of the live revision."""
    place = setting.place_for(tuple(sorted(order.files)))
    if engine.inspect_volume(setting.volume) is None:
        return place.names
    snapshot = read_place(engine, crew, place, look_at(crew))
    journal = parse_journal(snapshot.journal, "volume " + setting.volume)
    held = {snapshot.live, journal.old if journal else None, journal.new if journal else None}
    if order.rollback_to:
        held.add(find_revision(order.rollback_to, snapshot, journal))
    ours = {name for name in (journal.old, journal.new) if name} if journal and journal.in_flight else set()
    wanted = {name for revision in held - ours if revision for name in snapshot.files_of(revision)}
    return tuple(sorted({*place.names, *wanted}))


def setting_from(given: Mapping[str, Any]) -> RouterSetting:
    """The setting of a module's parameters; those that a module does not have keep their defaults."""
    names = [each.name for each in fields(RouterSetting)]
    told = {name: given[name] for name in names if name in given and given[name] is not None}
    for name in ("replicas", "validator"):
        if name in told:
            told[name] = tuple(told[name])
    if "probes" in told:
        told["probes"] = parse_probes(told["probes"], read_secret)
    if "environment" in told:
        told["environment"] = {str(key): str(value) for key, value in told["environment"].items()}
    setting = RouterSetting(**told)
    if len(set(setting.names)) != len(setting.names):
        raise fail("a replica is named twice", where="replicas", why=", ".join(setting.names))
    if setting.reload_signal and not re.fullmatch(r"SIG[A-Z0-9+-]{2,10}", setting.reload_signal):
        raise fail("not a signal", where="reload_signal", why=repr(setting.reload_signal), hint="such as SIGUSR2")
    return setting


def read_secret(path: str) -> str:
    """A secret from a file of this host."""
    return read_text(path, "header_files")


def read_text(path: str, where: str) -> str:
    """A file of this host as text; UTF-8 or an ``AnvilError``."""
    try:
        with open(path, "rb") as stream:
            return stream.read().decode("utf-8")
    except (OSError, ValueError) as exc:
        why = "not valid UTF-8" if isinstance(exc, UnicodeDecodeError) else str(exc)
        raise fail("cannot be read", where="{0}: {1}".format(where, path), why=why) from exc


def _read_files(given: Sequence[Mapping[str, Any]], mount: str) -> Dict[str, bytes]:
    """The files of the module's parameter, all problems at once."""
    found: Dict[str, bytes] = {}
    problems: List[Problem] = []
    for index, each in enumerate(given):
        where = "files[{0}]".format(index)
        dest = str(each["dest"])
        name = dest[len(mount) + 1 :] if dest.startswith(mount + "/") else dest
        try:
            if (each.get("content") is None) == (each.get("src") is None):
                raise fail("give either content or src", where=where)
            if name in found:
                raise fail("a second file for the same destination", where=where + ".dest", why=repr(dest))
            if name.startswith("/"):
                raise fail("the destination is not below the mount", where=where + ".dest", why=repr(dest), hint=mount)
            Place("v", "/v", "r", (name,))
            text = each["content"] if each.get("content") is not None else read_text(str(each["src"]), where + ".src")
            found[name] = encode_text(where, str(text))
        except AnvilError as exc:
            problems += exc.problems
    if problems:
        raise AnvilError(*problems)
    return found


def order_from(given: Mapping[str, Any], check: bool) -> Order:
    """The order of the promote module's parameters."""
    back = given["state"] == "rolled_back"
    texts = {CONFIG: given["config"], PROFILE: given["profile"]}
    for name, key in ((CONFIG, "config_src"), (PROFILE, "profile_src")):
        if given.get(key) is not None:
            texts[name] = read_text(str(given[key]), key)
    plain = given.get("layout") == "plain"
    generic = bool(given.get("files")) or bool(given.get("validator"))
    asked = generic or any(text is not None for text in texts.values())
    if back and (bool(given.get("files")) or any(text is not None for text in texts.values())):
        raise fail("a roll-back takes its files from a revision", where="state", hint="leave out config, profile and files")
    if generic and any(text is not None for text in texts.values()):
        raise fail("config and profile are a router's, files any other container's", where="files", hint="give one of both")
    if not back and not plain and not asked:
        raise fail("nothing to promote", where="config", hint="give config, profile or files, by text or as a file (_src)")
    if plain and given.get("replicas"):
        raise fail("replicas read through their pointers", where="layout", hint="layout: plain is for a single router")
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
    for name in ("grace", "start_timeout", "settle", "lock_timeout", "drain_timeout"):
        if not 0 <= (given.get(name) or 0) <= 3600:
            raise fail("not a sensible time", where=name, why=str(given[name]), hint="0 to 3600 seconds")
    files = {name: encode_text(name, text) for name, text in texts.items() if text is not None}
    return Order(
        files=_read_files(given["files"], given["mount"]) if given.get("files") else files,
        rollback_to=given["revision"] if back else "",
        keep=given["keep"],
        reload=given["reload"],
        check=check,
        validate_only=given["validate_only"],
        whole=generic,
        plain=plain,
        writer_image=given.get("writer_image") or "",
        lock_wait=given["lock_timeout"],
        # Who says how long it shall be watched has it so.
        lifetime=0.0 if given["settle"] is not None else LIFETIME,
    )


def show_file(name: str, content: Optional[bytes]) -> str:
    """A file for a diff: a profile as one line per tier and work class, in order, so that what routes otherwise stands out."""
    text = (content or b"").decode("utf-8", "replace")
    if name != PROFILE or not text:
        return text
    try:
        profile = json.loads(text)
        lines = []
        for entry in profile["entries"]:
            told = [key for key in sorted(entry) if key not in ("tier_id", "work_class", "decision")]
            rest = ", ".join("{0}={1}".format(key, json.dumps(entry[key])) for key in told)
            lines.append("{0} / {1}: {2} ({3})".format(entry["tier_id"], entry["work_class"], entry["decision"], rest))
        head = ["{0}: {1}".format(key, json.dumps(profile[key])) for key in sorted(profile) if key != "entries"]
    except (ValueError, KeyError, TypeError):
        return text
    return "\n".join([*head, *sorted(lines)]) + "\n"


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
                "before": show_file(name, outcome.before.get(name)),
                "after": show_file(name, outcome.after.get(name)),
            }
            for name in sorted({*outcome.before, *outcome.after})
            if outcome.before.get(name) != outcome.after.get(name)
        ]
    return told


def read_router(engine: DockerEngine, setting: RouterSetting) -> Dict[str, Any]:
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
    crew = Crew((Member(setting.container, router),))
    snapshot = read_place(engine, crew, setting.place, {setting.container: view})
    journal = parse_journal(snapshot.journal, "volume " + setting.volume)
    meta = snapshot.meta_of(snapshot.live) if snapshot.live else {}
    told["revision"] = snapshot.live
    told["generation"], told["version"] = meta.get("generation"), meta.get("version")
    told["in_flight"] = journal.state if journal is not None and journal.in_flight else None
    told["loaded"] = is_loaded(journal, snapshot, view) if snapshot.live and view.is_up else None
    told["history"] = list(list_history(snapshot, journal))
    return told
