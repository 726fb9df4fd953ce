# SPDX-License-Identifier: GPL-3.0-or-later
"""Which loads a measurement sends to which tiers, as command lines of aiperf, and how long they may take. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem

# Of the load generator's image (templates/images/aiperf.Dockerfile).
TOKENIZER = "/opt/anvil/packages/anvil-tokenizer"
EXPORT, REQUESTS = "profile_export_aiperf.json", "profile_export.jsonl"
# aiperf takes the API key as an option only. This adds the option inside its process, where no list of processes shows it.
KEY_VARIABLE = "ANVIL_MEASURE_KEY"
LAUNCH = """
import os, sys
key = os.environ.pop("ANVIL_MEASURE_KEY", "")
sys.argv[1:1] = ["profile", "--api-key", key] if key else ["profile"]
from aiperf.cli import app
sys.exit(app())
"""
# Seconds that aiperf itself takes to start and to end (7 s on two cores).
OVERHEAD = 8
RANGES = {"concurrency": (1, 4096), "requests": (1, 100000), "input_tokens": (1, 1000000), "output_tokens": (1, 100000)}


@dataclass(frozen=True)
class LoadTarget:
    """Where a tier answers: ``url`` without ``/v1``, and the name of the model to request there.

    context: tokens of the longest request and answer together; 0: not known.
    """

    tier: str
    url: str
    model: str
    context: int = 0


@dataclass(frozen=True)
class LoadSettings:
    """concurrency: requests in flight, one load for each. requests: of each load. timeout: seconds for each load."""

    concurrency: Tuple[int, ...] = (1, 4)
    requests: int = 32
    input_tokens: int = 256
    output_tokens: int = 128
    timeout: int = 600


@dataclass(frozen=True)
class Load:
    """One load on one tier."""

    target: LoadTarget
    concurrency: int
    argv: Tuple[str, ...]
    folder: str

    @property
    def name(self) -> str:
        return "{0}, concurrency {1}".format(self.target.tier, self.concurrency)

    @property
    def export(self) -> str:
        """The file with the results; aiperf writes none where every request failed."""
        return "{0}/{1}".format(self.folder, EXPORT)

    @property
    def records(self) -> str:
        """The file with one line of JSON for each request."""
        return "{0}/{1}".format(self.folder, REQUESTS)


def check_settings(settings: LoadSettings) -> None:
    """Raise AnvilError for numbers that make no load; every mistake at once."""
    given: Dict[str, Sequence[int]] = {
        "concurrency": settings.concurrency,
        "requests": (settings.requests,),
        "input_tokens": (settings.input_tokens,),
        "output_tokens": (settings.output_tokens,),
    }
    problems = [
        Problem("the number is out of range", name, str(value), "{0} to {1}".format(*RANGES[name]))
        for name, values in given.items()
        for value in values
        if not RANGES[name][0] <= value <= RANGES[name][1]
    ]
    if not settings.concurrency:
        problems.append(Problem("no load is given", "concurrency", hint="give the requests in flight, such as 1,4"))
    if not 10 <= settings.timeout <= 86400:
        problems.append(Problem("the number is out of range", "timeout", str(settings.timeout), "10 to 86400 seconds"))
    if problems:
        raise AnvilError(*problems)


def plan_loads(targets: Sequence[LoadTarget], settings: LoadSettings) -> List[Load]:
    """Tier by tier, the lowest concurrency first. Two loads never run at once."""
    made: List[Load] = []
    for target in targets:
        for concurrency in sorted(set(settings.concurrency)):
            folder = "/tmp/load-{0}".format(len(made))
            made.append(Load(target, concurrency, _aiperf(target, concurrency, settings, folder), folder))
    return made


def _aiperf(target: LoadTarget, concurrency: int, settings: LoadSettings, folder: str) -> Tuple[str, ...]:
    options = {
        "--model": target.model,
        "--url": target.url,
        "--endpoint-type": "chat",
        "--concurrency": concurrency,
        "--request-count": max(settings.requests, concurrency),
        "--synthetic-input-tokens-mean": settings.input_tokens,
        "--output-tokens-mean": settings.output_tokens,
        "--request-timeout-seconds": settings.timeout,
        # A server that closes a connection while aiperf sends the next request on it would count as an error of the tier.
        "--connection-reuse-strategy": "never",
        "--tokenizer": TOKENIZER,
        "--random-seed": 1,
        "--workers-max": min(4, concurrency),
        "--record-processors": 1,
        "--ui": "none",
        "--artifact-dir": folder,
    }
    switches = ("--streaming", "--use-server-token-count", "--no-server-metrics", "--no-gpu-telemetry")
    words = [word for name, value in options.items() for word in (name, str(value))]
    return ("python3", "-c", LAUNCH, *words, *switches)


def describe_loads(loads: Sequence[Load], settings: LoadSettings) -> str:
    """What a run would do, for check mode."""
    tiers = sorted({load.target.tier for load in loads})
    text = (
        "{0} loads on {1}: concurrency {2}, {3} requests each of about {4} tokens in and at most {5} out; "
        "about {6} s plus the time of the answers, at most {7} s"
    )
    levels = ", ".join(str(level) for level in sorted(set(settings.concurrency)))
    least, most = OVERHEAD * len(loads), settings.timeout * len(loads)
    sizes = (settings.requests, settings.input_tokens, settings.output_tokens)
    return text.format(len(loads), ", ".join(tiers) or "no tier", levels, *sizes, least, most)
