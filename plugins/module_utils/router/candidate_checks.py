# SPDX-License-Identifier: GPL-3.0-or-later
"""Check a router's candidate: the findings of the image's own loader, and checks of what that loader accepts. Pure."""

from __future__ import annotations

import difflib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.router_versions import (
    SUPPORTED,
    is_supported,
    parse_version,
)
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.promotion.file_sources import RENDERED, Choice
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica import ValidatedCandidate
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import hash_revision
from ansible_collections.anvil.serving.plugins.module_utils.router.probes import Probe

CONFIG_FILE = "config.toml"
PROFILE_FILE = "profile.json"
PROFILE_ROUTER, GATEWAY_ROUTER = "profile", "gateway"


@dataclass(frozen=True)
class CandidateTier:
    """A tier as the loader read it. steady: the router sends requests to it without checking first whether it is up."""

    id: str
    base_url: str
    steady: bool


@dataclass(frozen=True)
class CandidateFacts:
    """What the image's own loader found in a candidate. errors: (file, the loader's message).

    routes: (model, tiers in order) as the router itself decides with every tier up; without tiers a request is refused.
    config_sha256: the hash that a gateway router reports of this config.
    """

    generation: Optional[str]
    version: Optional[str] = None
    tier_ids: Tuple[str, ...] = ()
    work_classes: Tuple[str, ...] = ()
    decisions: Tuple[str, ...] = ()
    profile_path: Optional[str] = None
    token_variable: Optional[str] = None
    errors: Tuple[Tuple[str, str], ...] = ()
    tiers: Tuple[CandidateTier, ...] = ()
    routes: Tuple[Tuple[str, Tuple[str, ...]], ...] = ()
    config_sha256: Optional[str] = None


def parse_facts(reply: Mapping[str, Any]) -> CandidateFacts:
    """The facts in a line that ``programs/read_candidate`` printed."""
    names = {key: tuple(str(name) for name in reply[key]) for key in ("tier_ids", "work_classes", "decisions")}
    return CandidateFacts(
        generation=reply["generation"],
        version=reply["version"],
        profile_path=reply["profile_path"],
        token_variable=reply["token_variable"],
        config_sha256=reply["config_sha256"],
        errors=tuple((str(item["where"]), str(item["why"])) for item in reply["errors"]),
        tiers=tuple(CandidateTier(each["id"], each["base_url"], each["steady"]) for each in reply["tiers"]),
        routes=tuple((str(model), tuple(tiers)) for model, tiers in reply["routes"]),
        **names,
    )


def _suggest(name: Any, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(name), known, 1)
    return "did you mean {0}? use one of: {1}".format(close[0], ", ".join(known)) if close else "use one of: " + ", ".join(known)


def check_profile(profile: Any, facts: CandidateFacts, may_be_empty: bool = False) -> List[Problem]:
    """The mistakes in a profile (parsed JSON) that the router's loader accepts, but that would make it route wrongly.

    may_be_empty: an inventory without measurements renders a profile without entries; an operator does not promote one.
    """
    if not isinstance(profile, dict):
        return [Problem("a profile must be a JSON object", where=PROFILE_FILE, why="it is a " + type(profile).__name__)]
    entries = profile.get("entries")
    if entries == [] and may_be_empty:
        return []
    if not isinstance(entries, list) or not entries:
        return [Problem("a profile must hold at least one entry", where=PROFILE_FILE + ": entries", why=repr(entries)[:80])]
    found: List[Problem] = []
    seen: Dict[Tuple[str, str], int] = {}
    for index, entry in enumerate(entries):
        where = "{0}: entries[{1}]".format(PROFILE_FILE, index)
        if not isinstance(entry, dict) or not entry:
            found.append(Problem("an entry must be a JSON object with keys", where=where, why=repr(entry)[:80]))
            continue
        found += _check_entry(entry, where, facts)
        tier, work = entry.get("tier_id"), entry.get("work_class")
        first = seen.setdefault((str(tier), str(work)), index)
        if first != index:
            why = "entries[{0}] has tier {1} and work class {2} too; the router would use the last entry".format(
                first, tier, work
            )
            found.append(
                Problem("a second entry for the same tier and work class", where=where, why=why, hint="keep one of them")
            )
    return found


def _check_entry(entry: Mapping[str, Any], where: str, facts: CandidateFacts) -> List[Problem]:
    found: List[Problem] = []
    tier, work = entry.get("tier_id"), entry.get("work_class")
    # A config that cannot be read has no tiers to compare with: its own error is reported.
    if facts.tier_ids and tier not in facts.tier_ids:
        found.append(Problem("unknown tier {0!r}".format(tier), where=where + ".tier_id", hint=_suggest(tier, facts.tier_ids)))
    if facts.work_classes and work not in facts.work_classes:
        what = "unknown work class {0!r}".format(work)
        found.append(Problem(what, where=where + ".work_class", hint=_suggest(work, facts.work_classes)))
    if facts.decisions and entry.get("decision") not in facts.decisions:
        what = "unknown decision {0!r}".format(entry.get("decision"))
        found.append(Problem(what, where=where + ".decision", hint=_suggest(entry.get("decision"), facts.decisions)))
    score = entry.get("quality_score")
    if not isinstance(score, (int, float)) or isinstance(score, bool) or not 0 <= score <= 1:
        what = "a quality score must be a number from 0 to 1"
        found.append(Problem(what, where=where + ".quality_score", why=repr(score)[:80]))
    samples = entry.get("sample_n")
    if not isinstance(samples, int) or isinstance(samples, bool) or samples < 0:
        what = "a sample count must be a whole number, 0 or more"
        found.append(Problem(what, where=where + ".sample_n", why=repr(samples)[:80]))
    return found


def compare_tiers(profile: Any, facts: CandidateFacts) -> List[str]:
    """What a profile that stays says about other tiers than the config has: warnings.

    The router ignores an entry of a tier that it does not have, and takes a tier without an entry for unmeasured.
    """
    entries = profile.get("entries") if isinstance(profile, dict) else None
    rated = {str(entry.get("tier_id")) for entry in entries if isinstance(entry, dict)} if isinstance(entries, list) else set()
    if not rated or not facts.tier_ids:
        return []
    found = [
        "{0}: it rates tier {1}, which the config does not have; the router ignores that entry".format(PROFILE_FILE, tier)
        for tier in sorted(rated - set(facts.tier_ids))
    ]
    return found + [
        "{0}: it has no entry for tier {1}, which counts as not measured: measure again, and promote the result".format(
            PROFILE_FILE, tier
        )
        for tier in facts.tier_ids
        if tier not in rated
    ]


def check_profile_path(facts: CandidateFacts, has_profile: bool, profile_path: str) -> Tuple[List[Problem], List[str]]:
    """Whether the config reads the profile from where it is written; problems and warnings."""
    where = CONFIG_FILE + ": [router].profile_path"
    found = facts.profile_path
    unread = "the profile would never be read"
    hint = 'profile_path = "{0}" below [router]; a config that an inventory renders gets it from playbooks/site.yml'.format(
        profile_path
    )
    if has_profile and found is None:
        return [Problem(unread, where=where, why="the key is missing", hint=hint)], []
    if has_profile and found != profile_path:
        why = "the router would read {0}, the profile is written to {1}".format(found, profile_path)
        return [Problem(unread, where=where, why=why, hint=hint)], []
    if found == profile_path and not has_profile:
        what = "the config names a profile, but there is none"
        return [Problem(what, where=where, why=found, hint="give a profile, or remove the key")], []
    if found is not None and found != profile_path:
        return [], ["{0} is {1}: that file is not promoted with the config".format(where, found)]
    return [], []


def check_routes(facts: CandidateFacts) -> Tuple[List[Problem], List[str]]:
    """Whether the router would answer requests at all, by its own routing; problems and warnings."""
    if facts.generation != PROFILE_ROUTER or not facts.routes:
        return [], []
    refused = [model for model, tiers in facts.routes if not tiers]
    if len(refused) == len(facts.routes):
        why = "the profile denies every request on every tier; a tier without an entry is denied by default"
        return [Problem("no request would be answered", where=PROFILE_FILE, why=why, hint="allow at least one tier")], []
    presets = [model for model in refused if model not in facts.tier_ids]
    warning = '{0}: preset "{1}" is denied on every tier; such requests get 503'
    return [], [warning.format(PROFILE_FILE, model) for model in presets]


def choose_probes(facts: CandidateFacts) -> Tuple[Probe, ...]:
    """The requests that prove that a router routes, and by this very candidate, without a request to a model.

    A profile router reports its decision on POST /v1/route: one request per tier and one per preset, and each decision must
    be the one that the image's own code takes with the candidate's files. A gateway router has no such request: it reports
    the hash of the config that it has in memory, and its tiers. (A completion would load models, and queue behind others.)
    """
    steady = {tier.id for tier in facts.tiers if tier.steady}
    probes = []
    if facts.generation == GATEWAY_ROUTER:
        if facts.config_sha256:
            expected = {"config_sha256": facts.config_sha256}
            probes.append(Probe("config in memory", "/v1/router/status", json=expected, token=True))
        if facts.tiers:
            probes.append(Probe("tiers", "/v1/health/tiers", token=True))
        return tuple(probes)
    for model, tiers in facts.routes:
        body = json.dumps({"model": model, "messages": []})
        probe = Probe("route " + model, "/v1/route", "POST", token=True, body=body)
        # A tier that the router checks first, or that needs a key, may be down although the candidate is good.
        doubtful = () if steady.intersection(tiers) else (503,)
        probes.append(
            replace(probe, one_of={"provider": list(tiers)}, doubtful=doubtful) if tiers else replace(probe, status=(503,))
        )
    return tuple(probes)


def check_candidate(
    facts: CandidateFacts, choice: Choice, profile_path: str, image: str, more: Sequence[Problem] = ()
) -> ValidatedCandidate:
    """The files to write, or everything that is wrong with the candidate as one ``AnvilError``. more: found elsewhere."""
    files, given = choice.files, choice.given
    if facts.generation is None:
        raise fail(
            "the image is not an anvil-serving router",
            where="image " + image,
            why="; ".join(why for _where, why in facts.errors),
            hint="set image to a router's image: its python3 must be able to import anvil_serving.router.config",
        )
    version = parse_version(facts.version or "")
    if version is not None and not is_supported(version):
        raise fail(
            "anvil-serving {0} is not supported as a router".format(facts.version),
            where="image " + image,
            why="its configuration is that of neither generation",
            hint="use an image of " + SUPPORTED,
        )
    input_hash = hash_revision(files)
    problems = [
        Problem(
            "the router's own loader refuses the file",
            where=where,
            why=why,
            hint="correct the file, then run again; nothing was changed"
            if where in given
            else "this live file stays, and this image does not read it: promote another one, or the inventory's "
            "(playbooks/promote.yml with -e {0}_from=inventory); nothing was changed".format(where.partition(".")[0]),
        )
        for where, why in facts.errors
    ]
    problems += more
    files = dict(files)
    if CONFIG_FILE not in files:
        what, hint = "there is no config to promote", "the volume holds none yet: give config or config_src"
        problems.append(Problem(what, where=CONFIG_FILE, hint=hint))
    if facts.generation == GATEWAY_ROUTER and PROFILE_FILE in files:
        if PROFILE_FILE in given:
            why = "anvil-serving {0} routes by [router.model_routes]".format(facts.version)
            problems.append(Problem("this router reads no profile", where=PROFILE_FILE, why=why, hint="leave the profile out"))
        del files[PROFILE_FILE]
    warnings: List[str] = []
    if PROFILE_FILE in files:
        source = choice.sources.get(PROFILE_FILE)
        may_be_empty = PROFILE_FILE not in given or (source is not None and source.kind == RENDERED)
        # The two files were not made for each other where one of them stays: the loader itself accepts tiers that differ.
        stays = PROFILE_FILE not in given or any(each.name == CONFIG_FILE for each in choice.kept)
        try:
            profile = json.loads(files[PROFILE_FILE].decode("utf-8"))
            warnings += compare_tiers(profile, facts) if stays else []
            problems += check_profile(profile, replace(facts, tier_ids=()) if stays else facts, may_be_empty)
        except ValueError as exc:
            if not any(problem.where == PROFILE_FILE for problem in problems):
                problems.append(Problem("not JSON", where=PROFILE_FILE, why=str(exc)))
    if facts.generation == PROFILE_ROUTER and facts.tier_ids:
        found, doubts = check_profile_path(facts, PROFILE_FILE in files, profile_path)
        problems += found
        warnings += doubts
    found, doubts = check_routes(facts)
    # A profile that is wrong in itself has its problems already.
    problems += found if not problems else []
    warnings += doubts
    if problems:
        raise AnvilError(*problems)
    return ValidatedCandidate(
        input_hash=input_hash,
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
