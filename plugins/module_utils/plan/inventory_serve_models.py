# SPDX-License-Identifier: GPL-3.0-or-later
"""Check the model of a serve, or the models of a llama.cpp server with several; and the name that clients ask for."""

from __future__ import annotations

import re
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import Engine
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Mount
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_engines import SharedSettings
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_launch import launch_arguments, read_launch
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import NO_SPACE, Section, shorten

MODEL_KEYS = ("model", "launch")
SECTION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,120}")
LONGEST_NAME = 200
MODEL_NAME = re.compile(r"[A-Za-z0-9_/.][A-Za-z0-9._:/@+-]*")


def check_model(section: Section, model: Optional[str], engine: Optional[Engine], mounts: Sequence[Mount]) -> None:
    """Check that the model has the form that the engine loads, and note a path that no volume of the serve holds."""
    if model is None or engine is None:
        return
    if engine.model_is_file and not model.startswith("/"):
        section.add_problem(
            "model",
            "{0!r} is not a path in the container".format(shorten(model)),
            "llama_cpp loads a file: mount its folder with volumes, and set model to /path/in/container/model.gguf",
        )
    elif model.startswith("/") and not any(
        model == mount.target or model.startswith(mount.target.rstrip("/") + "/") for mount in mounts
    ):
        section.add_note("model", "no volume of this serve holds {0}, so the image must contain it".format(shorten(model)))


def read_models(section: Section, engine: Engine, shared: SharedSettings) -> Tuple[Dict[str, Dict[str, str]], Tuple[str, ...]]:
    """For a server with several models: model name -> its options, and the server's arguments. For one model: no names, and the
    arguments of its ``launch``."""
    if not section.has("models"):
        for key in ("models_max", "idle_unload"):
            if section.has(key):
                section.add_problem(
                    key,
                    "{0} is only for a server with several models".format(key),
                    "list the models under models, or remove {0}".format(key),
                )
        return {}, launch_arguments(shared.launch, engine)
    inner = section.check.read_mapping(
        section.path_of("models"), section.raw["models"], "models: {fast: {model: /models/fast.gguf}}"
    )
    if not engine.launch:
        section.add_problem("models", "models is for engine llama_cpp only", "use model, with one model")
        return {}, ()
    if section.has("model"):
        section.add_problem("model", "model and models are both set", "keep one of the two")
    if section.has("served_name"):
        section.add_problem(
            "served_name", "served_name and models are both set", "remove served_name: clients use the names under models"
        )
    models: Dict[str, Dict[str, str]] = {}
    for name, path, raw in (
        inner.read_entries(SECTION_NAME, "letters, digits and . _ : / -, starting with a letter or a digit") if inner else ()
    ):
        each = section.check.read_mapping(path, raw, "{model: /models/fast.gguf}")
        if each is None:
            continue
        each.check_keys(MODEL_KEYS)
        model = each.read_text("model", "the path of the file in the container", NO_SPACE)
        if not each.has("model"):
            section.check.add_problem(
                each.path_of("model"),
                "model {0} has no file".format(name),
                "set model: /path/in/container/{0}.gguf".format(shorten(name)),
            )
        check_model(each, model, engine, shared.mounts)
        mine = read_launch(each, engine)
        for key in sorted(set(mine) & set(engine.switches)):
            section.check.add_problem(
                (*each.path_of("launch"), key),
                "{0} applies to the whole server, not to one model".format(key),
                "move it into launch of the serve",
            )
        launch = {**shared.launch, **mine}
        models[name] = {"model": model or "", **_preset_options(launch, engine)}
    if inner and not inner.raw:
        section.add_problem("models", "must not be empty", "for example: models: {fast: {model: /models/fast.gguf}}")
    words: List[str] = []
    for key, flag in (("models_max", "--models-max"), ("idle_unload", "--sleep-idle-seconds")):
        number = section.read_integer(key, 1, 10**6)
        words += [] if number is None else [flag, str(number)]
    return models, tuple(words)


def _preset_options(launch: Mapping[str, str], engine: Engine) -> Dict[str, str]:
    """``launch`` as lines of llama.cpp's preset file: flags without their dashes."""
    words = launch_arguments(launch, engine)
    return {flag.lstrip("-"): value for flag, value in zip(words[::2], words[1::2])}


def read_served_names(section: Section, engine: Engine) -> Tuple[str, ...]:
    """The names under which an engine serves its model; the first is the one that readiness looks for. Empty: none is set."""
    rule, value = "one word without spaces: the model name that clients send", section.raw.get("served_name")
    if not isinstance(value, (list, tuple)):
        name = section.read_text("served_name", rule, NO_SPACE)
        return (name,) if name else ()
    listed = section.check.read_list(section.path_of("served_name"), value, "served_name: [heavy, gpt-oss]")
    names = [section.check.match_text(path, word, NO_SPACE, rule) for path, word in listed or ()]
    found = tuple(dict.fromkeys(name for name in names if name))
    if len(found) > 1 and not engine.many_names:
        section.add_problem(
            "served_name", "this engine serves its model under one name", "keep one: {0}".format(shorten(found[0]))
        )
    return found


def check_served_name(section: Section, name: str, engine: Engine) -> None:
    """Check a name that an engine gets on its command line, and that clients write into requests."""
    rest = name.lstrip("-")
    if rest != name:
        section.add_problem(
            "served_name",
            "{0!r} starts with -, so the engine takes it for a flag".format(shorten(name)),
            "choose a name that starts with a letter or a digit" + (", such as " + shorten(rest) if rest else ""),
        )
    elif not name.isprintable():
        section.add_problem(
            "served_name",
            "{0!r} has characters that cannot be printed".format(shorten(name)),
            "use letters, digits and . _ : / @ + -",
        )
    elif not MODEL_NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        section.add_note(
            "served_name",
            "{0!r} is no usual name of a model: letters, digits and . _ : / @ + -, at most {1} of them".format(
                shorten(name), LONGEST_NAME
            ),
        )
    for sign in engine.not_in_name:
        if sign in name:
            section.add_problem(
                "served_name",
                "the engine does not take {0!r} in the name of a model: {1!r}".format(sign, shorten(name)),
                "choose a name without it, such as {0}".format(shorten(name.replace(sign, "-"))),
            )


def default_served_name(model: str, engine: Engine) -> str:
    """The name that an engine derives from the model when it gets none; empty for an engine that always gets one."""
    if not engine.names_itself:
        return ""
    return model.rstrip("/").rpartition("/")[2] if model.startswith("/") else model


def name_arguments(served: Optional[str], engine: Engine) -> Tuple[str, ...]:
    """The arguments that set the served name, for an engine that works without one.

    Older releases lack the flag, so it is passed only if the inventory sets ``served_name``.
    """
    return (engine.names_itself, served) if engine.names_itself and served else ()
