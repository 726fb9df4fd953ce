"""The arguments of every recipe, put to the parser of the real vLLM for CPUs. Only `make vllm` runs this test."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import pytest
import yaml
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_recipes import compose_arguments, read_recipe
from ansible_collections.anvil.serving.plugins.module_utils.core.program_source import read_source
from ansible_collections.anvil.serving.plugins.module_utils.serves.programs import parse_command_lines
from bed import Bed
from conftest import REPO
from cpuvllm import IMAGE

FAMILIES = ("Ampere", "Ada", "Hopper", "Blackwell")


def command_lines() -> Iterator[tuple[str, tuple[str, ...]]]:
    """A recipe with its variant, and the arguments for each generation of cards, with speculative decoding and without."""
    for path in sorted((REPO / "recipes").glob("*.yml")):
        recipe = read_recipe(yaml.safe_load(path.read_text()), path.name)
        for variant in recipe.variants.values():
            if "vllm" in recipe.engines_of(variant):
                for family in FAMILIES:
                    for speculative in (False, True):
                        yield (
                            f"{path.stem} {variant.name}",
                            compose_arguments(recipe, "vllm", variant, [family], speculative).args,
                        )


def test_the_arguments_of_every_recipe_pass_the_parser_of_the_real_vllm(bed: Bed) -> None:
    if not bed.docker("images", "--quiet", IMAGE):
        pytest.skip("the image is not built; run: make vllm")
    names = {args: name for name, args in command_lines()}
    wrong = [*names, ("--no-such-flag-at-all",)]
    questions = [
        {"name": str(number), "style": "vllm", "argv": ["serve", "--model", "x/y", *args], "environment": {}}
        for number, args in enumerate(wrong)
    ]
    settings = ["--env", "HOME=/tmp", "--env", "HF_HUB_OFFLINE=1", "--entrypoint", "python3"]
    container = ["docker", "run", "--rm", "--interactive", "--network", "none", *settings, IMAGE]
    done = subprocess.run(
        bed.argv_inside([*container, "-c", read_source(parse_command_lines)]),
        input=json.dumps(questions) + "\n", capture_output=True, text=True, check=False, timeout=900,
        env={**os.environ, **bed.environment},
    )  # fmt: skip
    mark = parse_command_lines.MARK
    told = [json.loads(line.removeprefix(mark)) for line in done.stdout.splitlines() if line.startswith(mark + "{")]
    outcomes = {wrong[int(one["name"])]: one for one in told}
    assert len(outcomes) == len(wrong) > 50, done.stderr[-2000:]
    assert outcomes.pop(("--no-such-flag-at-all",))["outcome"] == "refused"
    assert not {names[args]: one["words"] for args, one in outcomes.items() if one["outcome"] != "accepted"}
