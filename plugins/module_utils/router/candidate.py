# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with a router's candidate: what the image's own loader says of it, and what that loader lets through.

Two generations are served. A *profile* router (anvil-serving 0.12 to 0.13.2) reads config.toml and profile.json; a
*gateway* router (0.35.1 to 2.0.2) reads config.toml only. Which one an image holds is found out in the image itself.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.probes import Probe
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.revisions import hash_revision
from ansible_collections.anvil.serving.plugins.module_utils.router.promotion import Verdict

CONFIG = "config.toml"
PROFILE = "profile.json"
PROFILE_ROUTER, GATEWAY_ROUTER = "profile", "gateway"

# Runs in the router's own image: one line of JSON in, one line of JSON out, until its input ends. It only finds out; we judge.
VALIDATOR = r"""
import contextlib, json, sys

request = facts = None


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
    router = server = store = None
    if request["config"] is not None:
        path = request["config_path"]
        router = attempt("config.toml", loader.load, path)
        server = attempt("config.toml", loader.load_server_config, path)
        if router is not None:
            facts["tier_ids"] = [str(tier.id) for tier in router.tiers]
            facts["profile_path"] = getattr(router, "profile_path", None)
            facts["tiers"] = [{"id": str(tier.id), "base_url": str(getattr(tier, "base_url", "") or ""),
                               "steady": getattr(tier, "privacy", "") == "local" and not getattr(tier, "health_path", None)}
                              for tier in router.tiers]
        if server is not None:
            facts["token_variable"] = getattr(server, "auth_env", None)
    if request["profile"] is not None and profile_bootstrap is not None:
        document = attempt("profile.json", json.loads, request["profile"])
        if document is not None:
            store = attempt("profile.json", profile_bootstrap.store_from_profile, document)
    if router is not None and profile_bootstrap is not None:
        if request["profile"] is None:
            store = profile_store.default_profile()
        if store is not None:
            attempt_quietly(tell_routes, router, store)
    elif router is not None:
        attempt_quietly(tell_identity, router)


def attempt_quietly(act, *values):
    # What only sharpens the verification must not refuse a candidate.
    try:
        with contextlib.redirect_stdout(sys.stderr):
            act(*values)
    except Exception as exc:
        print("%s: %s" % (type(exc).__name__, exc), file=sys.stderr)


def tell_routes(router, store):
    # The router's own decision for every name that a client may ask for, had every tier an answer.
    from anvil_serving.router import intent, internal, policy
    for model in [*router.presets, *facts["tier_ids"]]:
        asked = internal.InternalRequest(model=model, messages=[], stream=False, dialect="route", raw={})
        decided = policy.route(intent.resolve(asked, router), router, store)
        facts["routes"].append([str(model), [str(tier) for tier in decided.tiers]])


def tell_identity(router):
    facts["routes"] = [[str(alias), [str(tier)]] for alias, tier in dict(router.model_routes).items()]
    from anvil_serving.router import model_metadata
    facts["config_sha256"] = model_metadata.build_router_status(router, started_at=0.0)["config_sha256"]


for line in sys.stdin.buffer:
    request = json.loads(line.decode("utf-8"))
    facts = {"generation": None, "version": None, "tier_ids": [], "work_classes": [], "decisions": [],
             "profile_path": None, "token_variable": None, "tiers": [], "routes": [], "config_sha256": None, "errors": []}
    examine()
    print(json.dumps(facts), flush=True)
"""


# ---------------------------------------------------------------------------------------------------------- pure checks


@dataclass(frozen=True)
class Tier:
    """A tier as the loader read it. steady: the router never asks whether it is there before it routes to it."""

    id: str
    base_url: str
    steady: bool


@dataclass(frozen=True)
class Facts:
    """What the image's own loader made of a candidate. errors: (file, the loader's words).

    routes: (model, tiers in order) as the router itself decides, were every tier up; no tiers: a request is refused.
    config_sha256: what a gateway router tells of its config, a hash of its own making.
    """

    generation: Optional[str]
    version: Optional[str] = None
    tier_ids: Tuple[str, ...] = ()
    work_classes: Tuple[str, ...] = ()
    decisions: Tuple[str, ...] = ()
    profile_path: Optional[str] = None
    token_variable: Optional[str] = None
    errors: Tuple[Tuple[str, str], ...] = ()
    tiers: Tuple[Tier, ...] = ()
    routes: Tuple[Tuple[str, Tuple[str, ...]], ...] = ()
    config_sha256: Optional[str] = None


def facts_from(said: Mapping[str, Any]) -> Facts:
    """The facts of what ``VALIDATOR`` printed."""
    words = {key: tuple(str(word) for word in said[key]) for key in ("tier_ids", "work_classes", "decisions")}
    return Facts(
        generation=said["generation"],
        version=said["version"],
        profile_path=said["profile_path"],
        token_variable=said["token_variable"],
        config_sha256=said["config_sha256"],
        errors=tuple((str(item["where"]), str(item["why"])) for item in said["errors"]),
        tiers=tuple(Tier(each["id"], each["base_url"], each["steady"]) for each in said["tiers"]),
        routes=tuple((str(model), tuple(tiers)) for model, tiers in said["routes"]),
        **words,
    )


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


def check_routes(facts: Facts) -> Tuple[List[Problem], List[str]]:
    """Whether requests would be answered at all by the router's own routing; problems and warnings."""
    if facts.generation != PROFILE_ROUTER or not facts.routes:
        return [], []
    refused = [model for model, tiers in facts.routes if not tiers]
    if len(refused) == len(facts.routes):
        why = "the profile denies every tier to every request, and tiers that it does not speak of are denied by default"
        return [Problem("no request would be answered", where=PROFILE, why=why, hint="allow at least one tier")], []
    presets = [model for model in refused if model not in facts.tier_ids]
    return [], ["requests for {0} are refused: the profile denies every tier".format(model) for model in presets]


def choose_probes(facts: Facts) -> Tuple[Probe, ...]:
    """The requests that prove that a router routes, and by this very candidate, without a model being asked.

    A profile router tells its decision on POST /v1/route: one request per tier and one per preset, and each must be
    decided as the image's own code decides it with the candidate's files. A gateway router has no such request: it tells
    the hash of the config that it has in memory, and its tiers. (A completion would load models, and wait behind others.)
    """
    steady = {tier.id for tier in facts.tiers if tier.steady}
    probes = []
    if facts.generation == GATEWAY_ROUTER:
        if facts.config_sha256:
            probes.append(Probe("config in memory", "/v1/router/status", json={"config_sha256": facts.config_sha256}, token=True))
        if facts.tiers:
            probes.append(Probe("tiers", "/v1/health/tiers", token=True))
        return tuple(probes)
    for model, tiers in facts.routes:
        asked = Probe("route " + model, "/v1/route", "POST", token=True, body=json.dumps({"model": model, "messages": []}))
        # A tier that the router asks first, or that needs a key, may be away without the candidate being bad.
        doubtful = () if steady.intersection(tiers) else (503,)
        probes.append(
            replace(asked, one_of={"provider": list(tiers)}, doubtful=doubtful) if tiers else replace(asked, status=(503,))
        )
    return tuple(probes)


def judge(facts: Facts, files: Mapping[str, bytes], given: Sequence[str], profile_path: str, image: str) -> Verdict:
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
        wrong, warnings = check_paths(facts, PROFILE in files, profile_path)
        problems += wrong
    wrong, doubts = check_routes(facts)
    # A profile that is wrong in itself has been told already.
    problems += wrong if not problems else []
    warnings += doubts
    if problems:
        raise AnvilError(*problems)
    return Verdict(
        asked=asked,
        files=files,
        meta={
            "generation": facts.generation,
            "version": facts.version,
            "image": image,
            "token_variable": facts.token_variable,
            "tiers": [asdict(tier) for tier in facts.tiers],
            "probes": [probe.as_meta() for probe in choose_probes(facts)],
        },
        warnings=tuple(warnings),
    )
