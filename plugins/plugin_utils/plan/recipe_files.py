# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find the recipe of a model: those of this collection, and those of a folder or of a checkout of vllm-project/recipes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_recipes import Recipe, read_recipe
from ansible_collections.anvil.serving.plugins.module_utils.catalog.public_recipes import is_public_recipe, read_public_recipe
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import suggest_name

FOLDER = Path(__file__).resolve().parents[3] / "recipes"
ENDINGS = (".yml", ".yaml")
LARGEST = 1 << 20
MOST_FILES = 5000


def load_yaml(path: Path) -> Any:
    """A file of recipes as plain data. Raises AnvilError if it cannot be read."""
    try:
        if path.stat().st_size > LARGEST:
            raise fail("the file is too large for a recipe", str(path), hint="remove it from the folder")
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as exc:
        raise fail("the recipe cannot be read", str(path), str(exc), "correct the file") from exc


def read_recipe_file(path: Path) -> Recipe:
    document = load_yaml(path)
    return read_public_recipe(document, str(path)) if is_public_recipe(document) else read_recipe(document, str(path))


def list_recipe_files(folder: Path) -> list[Path]:
    """The recipes of a folder: its own files, or those below ``models`` of a checkout of vllm-project/recipes."""
    if not folder.is_dir():
        raise fail("there is no folder of this name", str(folder), hint="give the folder with -e recipes=")
    models = folder / "models"
    found = models.rglob("*") if models.is_dir() else folder.glob("*")
    return sorted(path for path in found if path.suffix in ENDINGS and path.is_file())[:MOST_FILES]


def make_slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _may_hold(path: Path, names: Sequence[str]) -> bool:
    """Whether the text of a file names one of the models. It is cheaper than to read every recipe as YAML."""
    try:
        text = path.read_text(encoding="utf-8").lower()
    except (OSError, UnicodeDecodeError):
        return False
    return any(name in text for name in names)


def _list_names(recipe: Recipe) -> Iterator[str]:
    yield recipe.model
    yield from (variant.repo for variant in recipe.variants.values())


def find_recipe(model: str, folder: str = "", known_names: Sequence[str] = ()) -> Recipe | None:
    """The recipe of a repository, or of a local model by its name. A folder of the user comes before our own recipes.

    known_names: what the weights say of their name. A recipe that cannot be read is left out, unless it is the only one.
    """
    bases = [os.path.basename(name.rstrip("/")) for name in (model, *known_names) if name]
    slugs = {make_slug(base) for base in bases} - {""}
    words = [word for word in (*bases, model) if word]
    broken: AnvilError | None = None
    for place in [*([Path(folder).expanduser()] if folder else []), FOLDER]:
        matches: list[Recipe] = []
        for path in list_recipe_files(place):
            if not _may_hold(path, [word.lower() for word in words]):
                continue
            try:
                matches.append(read_recipe_file(path))
            except AnvilError as error:
                broken = broken or error
        # The repository itself counts before a variant of another recipe, and that before a name without its owner.
        for recipe in matches:
            if recipe.model == model:
                return recipe
        for recipe in matches:
            if model in _list_names(recipe):
                return recipe
        if "/" not in model or model.startswith("/"):
            for recipe in matches:
                if slugs & {make_slug(os.path.basename(name)) for name in _list_names(recipe)}:
                    return recipe
    if broken:
        raise broken
    return None


def load_named_recipe(name: str, folder: str = "") -> Recipe:
    """The recipe of a file by its name without ending. Raises AnvilError with a suggestion."""
    places = [*([Path(folder).expanduser()] if folder else []), FOLDER]
    files = {path.stem: path for place in reversed(places) for path in list_recipe_files(place)}
    if name not in files:
        raise fail("there is no recipe of this name", name, hint=suggest_name(name, sorted(files)))
    return read_recipe_file(files[name])
