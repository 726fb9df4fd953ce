"""The engines and the templates of their command lines."""

from __future__ import annotations

from ansible_collections.anvil.serving.plugins.module_utils.catalog.engine_options import OPTIONS
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import ENGINES
from conftest import REPO


def test_each_engine_has_the_template_of_its_command_line_and_a_table_of_options() -> None:
    assert {path.stem for path in (REPO / "templates" / "engines").glob("*.j2")} == set(ENGINES) == set(OPTIONS)


def test_a_flag_has_one_meaning_in_its_engine() -> None:
    for options in OPTIONS.values():
        flags = [flag for option in options.values() for flag in (*option.flags, *option.off)]
        variables = [name for option in options.values() for name in (*option.variables, *option.off_variables)]
        assert len(flags) == len(set(flags)) and len(variables) == len(set(variables))
