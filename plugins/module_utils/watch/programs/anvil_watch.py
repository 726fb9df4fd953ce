# SPDX-License-Identifier: GPL-3.0-or-later
"""anvil-watch: the resident service of a host. It needs Python 3.9 and nothing else: ``python3 anvil-watch.pyz SETTINGS``.

One thread for each serve, so that a serve that hangs delays no other; the main thread reads the settings again when they change.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from http.server import ThreadingHTTPServer
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.printable import make_printable_line
from ansible_collections.anvil.serving.plugins.module_utils.watch import liveness
from ansible_collections.anvil.serving.plugins.module_utils.watch.exposition import OwnFigures, ServeFigures, format_metrics
from ansible_collections.anvil.serving.plugins.module_utils.watch.host_engine import HostEngine
from ansible_collections.anvil.serving.plugins.module_utils.watch.host_look import HostLook
from ansible_collections.anvil.serving.plugins.module_utils.watch.host_survey import NOTHING, survey_host
from ansible_collections.anvil.serving.plugins.module_utils.watch.keeper import Keeper, build_lock
from ansible_collections.anvil.serving.plugins.module_utils.watch.ledger import Ledger
from ansible_collections.anvil.serving.plugins.module_utils.watch.listener import build_listener, build_socket_listener
from ansible_collections.anvil.serving.plugins.module_utils.watch.settings import WatchSettings, parse_settings

# Seconds that one call of the Docker Engine may take.
DOCKER_SECONDS = 20
STACK_BYTES = 512 << 10
STARTED = time.time()


def tell(line: str) -> None:
    """One line of the journal. What a server says is printed as it is, never executed by a terminal."""
    sys.stdout.write(make_printable_line(line) + "\n")
    sys.stdout.flush()


class Watch:
    """All serves of the settings, until ``stop``."""

    def __init__(self, settings: WatchSettings) -> None:
        """It starts a thread for each serve."""
        self.settings, self._stop = settings, threading.Event()
        self.ledger = Ledger(settings.data, tell)
        self.keepers: Dict[str, Keeper] = {}
        self._threads: List[threading.Thread] = []
        self._silent: Dict[str, str] = {}
        self.ledger.load()
        self.ledger.keep_only([serve.name for serve in self.settings.serves])
        for serve in self.settings.serves:
            docker = HostEngine(self.settings.docker_host, DOCKER_SECONDS)
            lock = build_lock(self.settings.directory)
            self.keepers[serve.name] = Keeper(serve, self.settings, docker, self.ledger, lock)
        self.survey = NOTHING
        self._threads.append(threading.Thread(target=self._survey, daemon=True))
        self._threads[-1].start()
        self.host = HostLook(settings, HostEngine(settings.docker_host, DOCKER_SECONDS), self.ledger)
        self.host.halted = self._stop.is_set
        # Not waited for at the end: a driver may take minutes to answer.
        threading.Thread(target=self._look_at_host, daemon=True).start()
        for name, keeper in self.keepers.items():
            self._threads.append(threading.Thread(target=self._keep, args=(name, keeper), daemon=True))
            self._threads[-1].start()

    def _keep(self, name: str, keeper: Keeper) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                keeper.tick()
                if self._silent.pop(name, ""):
                    tell("{0}: the Docker Engine answers again".format(name))
            except AnvilError as exc:
                if name not in self._silent:
                    tell("{0}: cannot be watched: {1}".format(name, exc.as_text()))
                self._silent[name] = exc.as_text()
            except Exception as exc:  # a serve's odd answer must not end the watch over it
                tell("{0}: error of anvil-watch, please report it: {1}: {2}".format(name, type(exc).__name__, exc))
            self._stop.wait(max(0.1, keeper.limits.tick - (time.monotonic() - began)))

    def _survey(self) -> None:
        docker, told = HostEngine(self.settings.docker_host, DOCKER_SECONDS), ""
        while not self._stop.is_set():
            try:
                self.survey = survey_host(docker, self.settings, time.time())
                troubles = "; ".join(self.survey.failures)
            except Exception as exc:  # what it reads must not end the watch over the serves
                troubles = "error of anvil-watch, please report it: {0}: {1}".format(type(exc).__name__, exc)
            if troubles and troubles != told:
                tell("survey of the host: " + troubles)
            told = troubles
            self._stop.wait(self.settings.survey_seconds)

    def _look_at_host(self) -> None:
        told: Dict[str, str] = {}
        while not self._stop.is_set():
            for what, act in (("the experiments", self.host.end_experiments), ("the cards and disks", self.host.look)):
                trouble = ""
                try:
                    act()
                except Exception as exc:  # the host's odd answer must not end the watch over its serves
                    trouble = exc.as_text() if isinstance(exc, AnvilError) else "{0}: {1}".format(type(exc).__name__, exc)
                if trouble and trouble != told.get(what):
                    tell("{0} of the host cannot be looked at: {1}".format(what, trouble))
                told[what] = trouble
            self._stop.wait(self.settings.host_tick)

    def stop(self) -> None:
        """Wait until no serve is being restarted: new settings take over."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def states(self) -> Mapping[str, Tuple[bool, str]]:
        return {name: (keeper.in_rotation, keeper.record.state or "not judged yet") for name, keeper in self.keepers.items()}

    def metrics(self) -> str:
        serves = [self._figures(name, keeper) for name, keeper in sorted(self.keepers.items())]
        return format_metrics(serves, self._own(), self.survey, self.host.figures)

    def _figures(self, name: str, keeper: Keeper) -> ServeFigures:
        record, entry, found = keeper.record, self.ledger.get(name), keeper.found
        counted = None if record.state in (liveness.STOPPED, liveness.DEAD) else keeper.last.engine
        return ServeFigures(
            name,
            keeper.serve.engine,
            record.state,
            keeper.in_rotation,
            None if record.proven is None else max(0.0, time.monotonic() - record.proven),
            entry.ready_seconds,
            keeper.probe_seconds,
            entry.total,
            int((found or {}).get("RestartCount") or 0),
            entry.incidents,
            bool(entry.given_up),
            counted.values if counted else {},
            counted.histograms if counted else {},
            keeper.serve.served_name,
            keeper.serve.kind,
        )

    def _own(self) -> OwnFigures:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return OwnFigures(not self._silent, usage.ru_utime + usage.ru_stime, read_resident_bytes(), STARTED)


class Shown:
    """What the listener shows: the present watch, which new settings replace."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def metrics(self) -> str:
        return self.watch.metrics()

    def states(self) -> Mapping[str, Tuple[bool, str]]:
        return self.watch.states()


def read_resident_bytes() -> float:
    try:
        with open("/proc/self/statm", encoding="ascii") as handle:
            return float(handle.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0.0


def read_settings(path: str) -> Tuple[str, WatchSettings]:
    text = files.read_file(path)
    if text is None:
        raise fail("there are no settings", path, "the file does not exist", "run site.yml with anvil_watch: true")
    return text, parse_settings(text, path)


def watch(path: str, ended: threading.Event) -> None:
    """Watch until ``ended`` is set. Raises AnvilError for settings that cannot be read at the start, and for a taken port."""
    text, settings = read_settings(path)
    shown = Shown(Watch(settings))
    address = ("127.0.0.1", settings.port)
    try:
        listener = build_listener(address, shown.metrics, shown.states)
    except OSError as exc:
        hint = "choose another one: watch_port"
        raise fail("the port of watch is taken", "127.0.0.1:{0}".format(settings.port), str(exc), hint) from exc
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    at_edge, beside = settings.socket, _listen_for_edge(settings.socket, shown)
    tell("watches {0} serves; http://127.0.0.1:{1}/metrics".format(len(settings.serves), settings.port))
    trouble = ""
    while not ended.wait(2.0):
        shown.watch.ledger.refresh()
        try:
            now, changed = read_settings(path)
            trouble = ""
        except AnvilError as exc:
            if exc.as_text() != trouble:
                trouble = exc.as_text()
                tell(trouble)
            continue
        if now != text:
            text, settings = now, changed
            shown.watch.stop()
            shown.watch = Watch(settings)
            if settings.socket != at_edge:
                if beside:
                    beside.shutdown()
                    beside.server_close()
                at_edge, beside = settings.socket, _listen_for_edge(settings.socket, shown)
            tell("new settings: watches {0} serves".format(len(settings.serves)))
    listener.shutdown()


def _listen_for_edge(path: str, shown: Shown) -> Optional[ThreadingHTTPServer]:
    """The edge of this host passes on what it gets here. A socket that cannot be made is told, and hides no serve."""
    if not path:
        return None
    try:
        beside = build_socket_listener(path, shown.metrics)
    except OSError as exc:
        tell("the edge cannot be answered on {0}: {1}".format(path, exc.strerror or exc))
        return None
    threading.Thread(target=beside.serve_forever, daemon=True).start()
    return beside


def main(arguments: Optional[List[str]] = None) -> int:
    """The exit code. arguments: the path of the settings."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 1:
        sys.stderr.write("usage: anvil-watch.pyz SETTINGS (a file that anvil.serving writes)\n")
        return 2
    ended = threading.Event()

    def end(*_signal: Any) -> None:
        ended.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    threading.stack_size(STACK_BYTES)
    try:
        watch(given[0], ended)
    except AnvilError as exc:
        tell(exc.as_text())
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
