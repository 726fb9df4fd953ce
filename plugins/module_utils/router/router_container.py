# SPDX-License-Identifier: GPL-3.0-or-later
"""A router of either generation: how its candidate is validated in its own image, and what its replicas read.

A *profile* router (anvil-serving 0.12 to 0.13.2) reads config.toml and profile.json; a *gateway* router (0.35.1 to 2.0.2)
reads config.toml only. The validation finds out which one an image holds.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import replace
from typing import Any, Dict, List, Mapping, Optional, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.side_containers import LABEL_OWNER, confine, describe_owner
from ansible_collections.anvil.serving.plugins.module_utils.promotion.file_sources import Choice
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica import (
    ContainerState,
    DryBoot,
    ValidatedCandidate,
)
from ansible_collections.anvil.serving.plugins.module_utils.promotion.request import PromotionRequest
from ansible_collections.anvil.serving.plugins.module_utils.router.candidate_checks import (
    CONFIG_FILE,
    GATEWAY_ROUTER,
    PROFILE_FILE,
    PROFILE_ROUTER,
    CandidateFacts,
    check_candidate,
    parse_facts,
)
from ansible_collections.anvil.serving.plugins.module_utils.router.probes import Probe, probe_from_meta
from ansible_collections.anvil.serving.plugins.module_utils.router.promoted_container import PromotedContainer
from ansible_collections.anvil.serving.plugins.module_utils.router.router_settings import RouterSettings

HEALTH = Probe("health", "/healthz", timeout=2.0)
PROFILE_PATH_LINE = re.compile(r'(?m)^(\s*profile_path\s*=\s*)(["\'])([^"\'\n]*)\2')


NAMES_PROFILE = re.compile(rb"""(?m)^[^#\n]*\bprofile_path["']?\s*=""")
# The first words of every config that templates/router renders.
RENDERED_HEAD = b"# Rendered by anvil.serving"


class RouterContainer(PromotedContainer):
    """An anvil-serving router as a replica of a promotion."""

    def __init__(self, docker: DockerEngine, settings: RouterSettings, request: PromotionRequest) -> None:
        super().__init__(docker, settings, request)
        self.health = HEALTH
        self.generation = ""
        self.token_variable = ""

    def apply_meta(self, meta: Mapping[str, Any], is_candidate: bool) -> None:
        super().apply_meta(meta, is_candidate)
        self.generation = str(meta.get("generation") or self.generation)
        self.token_variable = str(meta.get("token_variable") or "")
        # Without the token only /healthz answers (a gateway router may read the token from a file of its own).
        if not self.token_variable or self.read_token():
            self.probes = (*(probe_from_meta(each) for each in meta.get("probes") or ()), *self.probes)

    def read_token(self) -> str:
        """The token in the container's environment; empty if there is none."""
        return self.read_environment().get(self.token_variable, "").strip() if self.token_variable else ""

    def stop_signal(self) -> str:
        """A profile router ignores SIGTERM as process 1, but ends at once on SIGINT."""
        own = str(((self.inspected or {}).get("Config") or {}).get("StopSignal") or "SIGTERM")
        return "SIGINT" if self.generation == PROFILE_ROUTER and own == "SIGTERM" else ""

    # ------------------------------------------------------------------------------------------------ replicas' paths

    def profile_path(self) -> str:
        """What the config must name as ``profile_path``. With replicas it is relative to the folder that each runs in, its
        own pointer: one absolute path would be shared by all.
        """
        return PROFILE_FILE if self.settings.replicas else self.settings.mount + "/" + PROFILE_FILE

    def adapt_files(self, files: Mapping[str, bytes], spare: Sequence[str] = ()) -> Dict[str, bytes]:
        """With replicas, a config that names the stock path of the profile gets the relative one.

        A spare profile is left out where the config names none.
        """
        adapted = dict(files)
        if PROFILE_FILE in spare and CONFIG_FILE in adapted and not NAMES_PROFILE.search(adapted[CONFIG_FILE]):
            adapted.pop(PROFILE_FILE, None)
        if self.settings.replicas and CONFIG_FILE in adapted:
            text = adapted[CONFIG_FILE].decode("utf-8", "surrogateescape")
            text = PROFILE_PATH_LINE.sub(self._replace_stock_path, text, count=1)
            adapted[CONFIG_FILE] = text.encode("utf-8", "surrogateescape")
        return adapted

    def is_rendered(self, name: str, content: bytes) -> bool:
        return name == CONFIG_FILE and content.startswith(RENDERED_HEAD)

    def _replace_stock_path(self, match: re.Match[str]) -> str:
        is_stock = match.group(3) == self.settings.mount + "/" + PROFILE_FILE
        return '{0}"{1}"'.format(match.group(1), self.profile_path()) if is_stock else match.group(0)

    def pointer_folder(self) -> str:
        """The folder that this replica's pointer leads to, inside the container."""
        return "{0}/{1}".format(self.settings.mount, self.settings.place.link_of(self.name))

    def read_state(self) -> ContainerState:
        state = super().read_state()
        folder = self.pointer_folder()  # for every router: it refuses names that no volume or pointer may have
        runs_in = str(((self.inspected or {}).get("Config") or {}).get("WorkingDir") or "/")
        if state.exists and self.settings.replicas and runs_in != folder and self.request.reload:
            raise fail(
                "the replica does not read its files through its own pointer",
                where="container " + self.name,
                why="its working directory is {0}, not {1}".format(runs_in, folder),
                hint="recreate the router: ansible-playbook playbooks/site.yml",
            )
        return state

    # -------------------------------------------------------------------------------------------------------- validate

    def validate(self, choice: Choice) -> ValidatedCandidate:
        image = self.find_image()
        facts = self._read_facts(image, choice.files)
        self.generation = facts.generation or self.generation
        self.token_variable = facts.token_variable or ""
        candidate = check_candidate(facts, choice, self.profile_path(), image, self._check_token(facts))
        warnings = [*self.warnings, *candidate.warnings, *self._check_ownership(choice)]
        self.warnings = []
        return replace(candidate, warnings=tuple(warnings))

    def _read_facts(self, image: str, files: Mapping[str, bytes]) -> CandidateFacts:
        from ansible_collections.anvil.serving.plugins.module_utils.core.program_source import read_source
        from ansible_collections.anvil.serving.plugins.module_utils.router.programs import read_candidate

        request: Dict[str, Any] = {}
        problems = []
        for key, name in (("config", CONFIG_FILE), ("profile", PROFILE_FILE)):
            request[key + "_path"] = self.settings.mount + "/" + name
            try:
                request[key] = files[name].decode("utf-8") if name in files else None
            except UnicodeDecodeError as exc:
                problems.append(Problem("not valid UTF-8", where=name, why=str(exc)))
        if problems:
            raise AnvilError(*problems)
        process = self.docker.open_process(
            image,
            ["-c", read_source(read_candidate)],
            entrypoint=["python3"],
            user="65534:65534",
            working_dir="/",
            environment={"HOME": self.settings.mount, "PYTHONDONTWRITEBYTECODE": "1"},
            labels={LABEL_OWNER: describe_owner()},
            healthcheck={"test": ["NONE"]},
            # The candidate lies where the router will read it, so that the loader's messages name the right path.
            host_config=confine(tmpfs={self.settings.mount: "size=32m,mode=0700,uid=65534,gid=65534"}),
        )
        try:
            process.send(json.dumps(request).encode("utf-8") + b"\n")
            reply = json.loads(process.read_line(60).decode("utf-8"))
        except AnvilError as exc:
            raise fail(
                "the candidate could not be validated",
                where="image " + image[7:19],
                why=exc.problems[0].why,
                hint="set image to a router's image: it needs python3 and anvil_serving",
                log=exc.problems[0].log,
            ) from exc
        finally:
            process.release()
        return parse_facts(reply)

    def _check_ownership(self, choice: Choice) -> List[str]:
        """Whether the next run of the inventory replaces a file that is promoted now; returns warnings."""
        overruled = [] if self.request.is_rendered else [name for name in choice.given if name in self.request.overruled]
        text = "{0}: the next site.yml replaces it, because the inventory has anvil_router.{1}_from: inventory"
        return [text.format(name, name.partition(".")[0]) for name in overruled]

    def _check_token(self, facts: CandidateFacts) -> List[Problem]:
        """A mistake if the token variable that the config names is not set where the router reads it."""
        if self.inspected is None or not facts.token_variable or not self.request.reload or self.read_token():
            return []
        why = "container {0} would refuse to start".format(self.name)
        if facts.generation == GATEWAY_ROUTER:
            from ansible_collections.anvil.serving.plugins.module_utils.router.dotenv_files import find_dotenv_value

            found = find_dotenv_value(self.docker, self.inspected, facts.token_variable)
            if found.is_set:
                return []
            why += "; its files {0} do not set it either".format(" and ".join(found.paths))
        return [
            Problem(
                "the token variable {0} is not set, or empty, in the router's environment".format(facts.token_variable),
                where=CONFIG_FILE + ": [server].auth_env",
                why=why,
                hint="recreate the router with the variable first, or promote with reload: false before it is replaced",
            )
        ]

    # -------------------------------------------------------------------------------------------------------- dry boot

    def select_startup_files(self, files: Mapping[str, bytes]) -> Dict[str, bytes]:
        """Without the profile: the router only reads scores from it."""
        return {name: content for name, content in files.items() if name != PROFILE_FILE}

    def start_dry_boot(self, candidate: ValidatedCandidate, observation: float) -> Optional[DryBoot]:
        if not self.settings.dry_boot:
            return None
        from ansible_collections.anvil.serving.plugins.module_utils.router.dry_boot import RouterDryBoot, ThrowawayRouter
        from ansible_collections.anvil.serving.plugins.module_utils.router.dry_boot_plan import plan_throwaway

        image = self.docker.inspect_image(self.find_image())
        if image is None:
            raise fail("the image is no longer on this host", where="image " + self.find_image())
        variable = str(candidate.meta.get("token_variable") or "")
        stand_in = (variable, secrets.token_urlsafe(16))
        plan = plan_throwaway(image, self.inspected, self.settings.mount, self.settings.environment, stand_in)
        if self.settings.replicas:
            plan = replace(plan, working_dir=self.pointer_folder())
        files = {
            folder + name: content
            for folder in ("", *(".anvil/live/{0}/".format(name) for name in self.settings.names))
            for name, content in candidate.files.items()
        }
        probes = [probe_from_meta(each) for each in candidate.meta.get("probes") or ()]
        if variable and not plan.token:
            probes = []
        # A connection of its own: it is used while the lock is taken.
        router = ThrowawayRouter(DockerEngine(self.docker.docker_host), plan, files)
        tiers = candidate.meta.get("tiers") or ()
        probes += self.settings.probes
        return RouterDryBoot(router, HEALTH, probes, tiers, self.settings.start_timeout, observation)
