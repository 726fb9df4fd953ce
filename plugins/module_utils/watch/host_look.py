# SPDX-License-Identifier: GPL-3.0-or-later
"""The slow look of watch at its host: the health of the cards, the free space of the disks, and experiments whose time is over.

Changes are told once. An experiment is retired as ``anvil_experiment`` does it, with the lock of the host.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.gpu_conditions import DOUBTFUL, OUT
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.host.disk_places import (
    DATA,
    DOCKER,
    WEIGHTS,
    Disk,
    describe_low,
    read_disks,
)
from ansible_collections.anvil.serving.plugins.module_utils.host.gpu_health import CardHealth
from ansible_collections.anvil.serving.plugins.module_utils.host.gpu_health_on_host import HostHealth, read_health
from ansible_collections.anvil.serving.plugins.module_utils.serves.experiments import find_experiments, retire_experiments
from ansible_collections.anvil.serving.plugins.module_utils.watch.ledger import Ledger
from ansible_collections.anvil.serving.plugins.module_utils.watch.settings import WatchSettings

# After a driver that did not answer it is left alone for so long (seconds): each question may leave a process that hangs.
SILENT_PAUSE = 600.0


@dataclass(frozen=True)
class HostFigures:
    """cards_up: whether the driver answered; None: there is none. read: when, in seconds since 1970."""

    cards: Tuple[CardHealth, ...] = ()
    cards_up: Optional[bool] = None
    read: float = 0.0
    disks: Tuple[Disk, ...] = ()


@dataclass
class HostLook:
    """docker: a HostEngine of its own. halted: whether another look has taken over, because the settings changed meanwhile."""

    settings: WatchSettings
    docker: Any
    ledger: Ledger
    health: Callable[[], Optional[HostHealth]] = read_health
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    halted: Callable[[], bool] = lambda: False
    figures: HostFigures = field(default_factory=HostFigures)
    _told: Dict[str, str] = field(default_factory=dict)
    _again: float = 0.0

    def look(self) -> None:
        """Read everything again."""
        disks = tuple(read_disks(self._list_places()))
        before = self.figures
        if self.clock() < self._again:
            self.figures = HostFigures(before.cards, before.cards_up, before.read, disks)
        else:
            found = self.health()
            up = None if found is None else not found.trouble
            if up is False:
                self._again = self.clock() + SILENT_PAUSE
            self.figures = HostFigures(found.cards if found else (), up, self.wall(), disks)
            self._tell("driver", found.trouble if found else "", "the driver answers again")
        for card in self.figures.cards:
            bad = [one for one in card.findings if one.verdict in (OUT, DOUBTFUL)]
            words = "; ".join("{0} ({1})".format(one.what, one.why) if one.why else one.what for one in bad)
            self._tell(card.name, "{0}: {1}".format(card.state, words) if bad else "", "has no trouble any more")
        low = describe_low(disks)
        self._tell("disk", "; ".join(line.partition(": ")[2] for line in low), "the disks have room again")

    def end_experiments(self) -> None:
        """Retire the experiments whose time to live is over. Raises AnvilError where the Docker Engine refuses."""
        now = self.wall()
        if not any(one.is_expired(now) for one in find_experiments(self.docker)):
            return
        done = retire_experiments(self.docker, os.path.dirname(self.settings.directory), "", now, False)
        for one in done["retired"]:
            self.ledger.act("experiment " + str(one["name"]), "is retired: its time to live is over")

    def _list_places(self) -> List[Tuple[str, str]]:
        places = [(DATA, self.settings.data), *((WEIGHTS, folder) for folder in self.settings.weights)]
        try:
            root = self.docker.read_data_root()
        except AnvilError:
            root = next((disk.folder for disk in self.figures.disks if disk.place == DOCKER), "")
        return [*places, (DOCKER, root)] if root else places

    def _tell(self, name: str, trouble: str, over: str) -> None:
        """One act when a trouble begins, changes its kind, or ends. Figures in it may change without another act."""
        kind = "".join(letter for letter in trouble if not letter.isdigit())
        if kind != self._told.get(name, "") and not self.halted():
            self._told[name] = kind
            self.ledger.act(name, trouble or over)
