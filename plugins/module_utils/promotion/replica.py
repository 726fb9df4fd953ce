# SPDX-License-Identifier: GPL-3.0-or-later
"""What a promotion needs of a container that reads the promoted files: its state, how it is checked, reloaded and verified."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Protocol, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.promotion.file_sources import Choice
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import Place

# A process that started less than this before the pointer moved may have read the new files (seconds).
READ_LAG = 30.0
# A candidate with no earlier evidence is observed for this long: some die only after a few seconds (docs/promotion.md).
OBSERVATION = 8.0


@dataclass(frozen=True)
class ContainerState:
    """The container that reads the files, as Docker reports it. started_at: seconds since the epoch, 0 if never.

    restarts: by its restart policy, since it was last started or restarted by a command. gave_up: the restart policy starts
    it no more after as many failures as it allows. ended_alone: it failed, and its policy starts it never. exit_code: of the
    last process that ended. oom_killed: the kernel ended one of its processes for memory. health: ``starting``, ``healthy`` or
    ``unhealthy``, empty where it has no health check; last_check: when the last one began; complaint: what it said if it failed.
    """

    exists: bool
    status: str = "absent"
    container_id: str = ""
    image_id: str = ""
    started_at: float = 0.0
    pid: int = 0
    restarts: int = 0
    gave_up: bool = False
    exit_code: int = 0
    ended_alone: bool = False
    oom_killed: bool = False
    health: str = ""
    last_check: float = 0.0
    complaint: str = ""

    @property
    def is_unhealthy(self) -> bool:
        return self.status == "running" and self.health == "unhealthy"

    @property
    def is_up(self) -> bool:
        """Whether the container runs, or is to run but keeps failing: then a new revision needs a reload."""
        return self.status in ("running", "restarting") or self.gave_up

    def may_have_loaded(self, at: float) -> bool:
        """Whether its process may have read the files that became live at ``at``."""
        return self.is_up and (self.status == "restarting" or self.started_at >= at - READ_LAG)

    def has_loaded(self, at: float) -> bool:
        """Whether its process has certainly read the files that became live at ``at``."""
        return self.is_up and self.started_at > at


@dataclass(frozen=True)
class Proof:
    """A reload that was verified. seconds: from the start of the verification to the end of the settle time.

    may_be_unhealthy: its health check failed before the promotion already, so that proves nothing.
    """

    started_at: str
    pid: int
    seconds: float
    may_be_unhealthy: bool = False


@dataclass(frozen=True)
class ValidatedCandidate:
    """Files that passed the validation.

    input_hash: the hash of the files as they were given to the validation.
    files: the files to write, without those that the container does not read.
    meta: facts for the revision's meta.json.
    """

    input_hash: str
    files: Mapping[str, bytes]
    meta: Mapping[str, Any] = field(default_factory=dict)
    warnings: Tuple[str, ...] = ()


class DryBoot(Protocol):
    """A throwaway container that runs on the candidate until it is closed. observation: seconds it must stay alive.

    is_faithful: whether it has all that the real container has. One without the volumes that the real one writes to proves
    less: the real one is observed too.
    """

    observation: float
    is_faithful: bool

    def confirm(self) -> Tuple[str, ...]:
        """Wait until the candidate has passed and return warnings, or raise ``AnvilError``. May be called again."""

    def close(self) -> None: ...


class Replica(Protocol):
    """A container that reads the files. Every method may raise ``AnvilError``.

    name: the container, and its pointer in the volume. warnings: what to report although nothing failed.
    """

    warnings: List[str]

    @property
    def name(self) -> str: ...

    def read_state(self) -> ContainerState: ...

    def apply_meta(self, meta: Mapping[str, Any], is_candidate: bool) -> None:
        """Take what ``reload`` and ``verify`` need from the meta.json of the revision that is loaded next.

        is_candidate: whether that is the requested revision, as opposed to one that was live before.
        """

    def find_image(self) -> str:
        """The id of the image to validate with."""

    def is_healthy(self, state: ContainerState, trust: float) -> bool:
        """Whether it answers now, by a process that is ``trust`` seconds old; waits for one that has just started."""

    def adapt_files(self, files: Mapping[str, bytes], spare: Sequence[str] = ()) -> Dict[str, bytes]:
        """The files as a revision stores them. spare: names that are left out if no other file refers to them."""

    def is_rendered(self, name: str, content: bytes) -> bool:
        """Whether a file says of itself that an inventory rendered it."""

    def validate(self, choice: Choice) -> ValidatedCandidate: ...

    def select_startup_files(self, files: Mapping[str, bytes]) -> Dict[str, bytes]:
        """The files that can end a process after it came up, without those that it only reads values from."""

    def start_dry_boot(self, candidate: ValidatedCandidate, observation: float) -> Optional[DryBoot]:
        """Start a throwaway container on the candidate; ``None`` if that is turned off."""

    def reload(self, patient: bool) -> bool:
        """Make the container read its files again. patient: whether requests in flight get the grace period.

        Returns True after a restart, False where the running process read them again.
        """

    def verify(
        self, place: Place, revision: Optional[str], switched_at: float, observation: float, may_be_unhealthy: bool
    ) -> Proof:
        """Check that it came up on ``revision`` after ``switched_at`` and stays up, for ``observation`` seconds at least.

        may_be_unhealthy: the health check of its image failed before the promotion too: it is a warning, no failure.
        """

    def recheck(self, proof: Proof) -> None:
        """Check that the process that was verified still runs and is healthy."""


class TrafficControl(Protocol):
    """What is done to a replica's clients before and after it is reloaded."""

    def find_drained(self) -> Sequence[str]:
        """The replicas that get no requests because they were drained."""

    def drain(self, replica: str) -> None:
        """Send the replica no new requests, and wait until it has none in flight."""

    def readmit(self, replica: str) -> None:
        """Send the replica requests again, and wait until it takes them."""
