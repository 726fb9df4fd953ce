# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""YAML as plain data, with the line and column of each key and item."""

from __future__ import annotations

from typing import Any

import yaml

from anvil_workflow.language.problems import REPEATED, Finding, Path, Problem, WorkflowError

MOST_VALUES = 50_000


def load_yaml(text: str) -> tuple[Any, dict[Path, tuple[int, int]], list[Finding]]:
    """The data, the line and column of each key and item, and the mistakes that YAML itself shows. Raises WorkflowError."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            raise WorkflowError(Problem("", 1, 1, "", "the file is empty", 'begin with schema_version: "1.0"'))
        builder = _Builder()
        return builder.build(root, ()), builder.places, builder.findings
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        hint = "check quotes and indentation at that place; quote a text that contains ': ' or begins with '{'"
        raise WorkflowError(
            Problem("", line, column, "", f"this is not valid YAML: {error.problem or error.context}", hint)
        ) from None
    except yaml.YAMLError as error:
        raise WorkflowError(Problem("", 0, 0, "", f"this is not valid YAML: {error}", "save the file as plain text")) from None
    except RecursionError:
        raise WorkflowError(Problem("", 0, 0, "", "the file is nested too deeply", "reduce the nesting")) from None


class _Builder(yaml.SafeLoader):
    """Builds plain data and keeps the position of each key and item. Repeated keys are findings."""

    def __init__(self) -> None:
        super().__init__("")
        self.places: dict[Path, tuple[int, int]] = {}
        self.findings: list[Finding] = []
        self.count = 0
        self.open: list[int] = []

    def build(self, node: yaml.Node, path: Path) -> Any:
        self.count += 1
        if self.count > MOST_VALUES or id(node) in self.open:
            mark = node.start_mark
            what = f"aliases expand to more than {MOST_VALUES} values, or to themselves"
            raise WorkflowError(Problem("", mark.line + 1, mark.column + 1, "", what, "write the values without aliases"))
        self.places.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
        self.open.append(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._build_mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.build(item, (*path, number)) for number, item in enumerate(node.value)]
            if node.tag.startswith("!"):
                self.findings.append(Finding(path, f"the tag {node.tag} is not known", "remove the tag"))
                return None
            value = self.construct_object(node)
            return value if isinstance(value, (str, int, float, bool, type(None))) else str(node.value)
        except (yaml.constructor.ConstructorError, ValueError):
            return str(node.value)
        finally:
            self.open.pop()

    def _build_mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        built: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for source in sources:
                    merged = {**self._merge(source, path), **merged}
                continue
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else ""
            here = (*path, key)
            mark = key_node.start_mark
            if not key:
                self.findings.append(Finding(path, "a key is not text", "use names as keys"))
                continue
            if key in built:
                first = self.places[here][0]
                # The problem shows the line of the second one; the first one's value counts, so its place is kept.
                self.places[(*here, REPEATED)] = (mark.line + 1, mark.column + 1)
                self.findings.append(
                    Finding((*here, REPEATED), f"{key} is written twice; first in line {first}", "remove one of the two")
                )
                continue
            self.places[here] = (mark.line + 1, mark.column + 1)
            built[key] = self.build(value_node, here)
        return {**merged, **built}

    def _merge(self, node: yaml.Node, path: Path) -> dict[str, Any]:
        value = self.build(node, path)
        return value if isinstance(value, dict) else {}
