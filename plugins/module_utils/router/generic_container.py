# SPDX-License-Identifier: GPL-3.0-or-later
"""A container that is no router: its files are validated by a command of its own image."""

from __future__ import annotations

from typing import Any, Dict, List

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.side_containers import (
    LABEL_OWNER,
    confine,
    describe_owner,
    own_volume,
)
from ansible_collections.anvil.serving.plugins.module_utils.promotion.file_sources import Choice
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica import ValidatedCandidate
from ansible_collections.anvil.serving.plugins.module_utils.promotion.request import PromotionRequest
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import hash_revision
from ansible_collections.anvil.serving.plugins.module_utils.router.dry_boot_plan import list_folders, mount_read_only
from ansible_collections.anvil.serving.plugins.module_utils.router.probes import Probe
from ansible_collections.anvil.serving.plugins.module_utils.router.promoted_container import PromotedContainer
from ansible_collections.anvil.serving.plugins.module_utils.router.router_settings import RouterSettings


class GenericContainer(PromotedContainer):
    """Any container whose configuration lies in a volume, as a replica of a promotion."""

    def __init__(self, docker: DockerEngine, settings: RouterSettings, request: PromotionRequest) -> None:
        super().__init__(docker, settings, request)
        self.health = Probe("health", settings.health_path, timeout=2.0) if settings.health_path else None

    def list_mounts(self) -> List[Dict[str, Any]]:
        """The mounts of a side container that tries the candidate: what this one mounts read-only, and an anonymous volume
        for the candidate at the config mount.
        """
        folders = list_folders(self.inspected or {}, self.settings.mount)[0]
        return [*mount_read_only(folders), own_volume(self.settings.mount)]

    def validate(self, choice: Choice) -> ValidatedCandidate:
        image, files = self.find_image(), choice.files
        if self.settings.validator:
            done = self.docker.run_side_container(
                image,
                list(self.settings.validator[1:]),
                files=files,
                folder=self.settings.mount,
                entrypoint=[self.settings.validator[0]],
                labels={LABEL_OWNER: describe_owner()},
                healthcheck={"test": ["NONE"]},
                host_config=confine(
                    tmpfs={"/tmp": "size=32m", "/run": "size=8m,mode=0777"},
                    mounts=self.list_mounts(),
                ),
            )
            if done.exit_code:
                raise fail(
                    "the validator refuses the candidate",
                    where=" ".join(self.settings.validator),
                    why="exit code {0}".format(done.exit_code),
                    hint="correct the files, then run again; nothing was changed",
                    log=done.output.splitlines()[-20:],
                )
        warnings = tuple(self.warnings)
        self.warnings = []
        if not self.settings.validator:
            warnings += ("the files were not validated: no validator is set",)
        return ValidatedCandidate(input_hash=hash_revision(files), files=files, meta={"image": image}, warnings=warnings)
