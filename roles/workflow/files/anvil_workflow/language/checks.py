# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks across the keys of a workflow file: what names refer to, types that must agree, nodes that no edge reaches.

The checks use the parts that are valid by themselves, so that a mistake in one node does not hide mistakes in the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from anvil_workflow.language.conditions import parse_condition
from anvil_workflow.language.field_types import check_value
from anvil_workflow.language.problems import Finding, Path, suggest
from anvil_workflow.language.prompts import parse_reference, parse_template
from anvil_workflow.language.schema import END, START, Config, Edge, Loop, Node, Parallel, StateField
from anvil_workflow.language.tool_settings import CONFIGS


@dataclass(frozen=True)
class Parts:
    """The valid parts of a file. names and ids: of all fields and nodes, the others too. whole: every part is valid."""

    fields: Mapping[str, StateField]
    nodes: Sequence[tuple[int, Node]]
    edges: Sequence[tuple[int, Edge]]
    outputs: Sequence[str] | None
    config: Config | None
    names: frozenset[str]
    ids: frozenset[str]
    whole: bool


def check_parts(parts: Parts) -> Iterator[Finding]:
    yield from _check_fields(parts)
    yield from _check_nodes(parts)
    yield from _check_edges(parts)
    if parts.whole:
        yield from _check_reachability(parts)
        yield from _check_forks(parts)
    for number, name in enumerate(parts.outputs or ()):
        if name not in parts.names:
            yield Finding(("outputs", number), f"{name} is not a state field", suggest(name, parts.names))
    for number, gate in enumerate(parts.config.gates.gates if parts.config else ()):
        if gate.condition is not None:
            yield from _check_condition(("config", "gates", "gates", number, "condition"), gate.condition, parts)


def _check_fields(parts: Parts) -> Iterator[Finding]:
    for name, field in parts.fields.items():
        wrong = "" if field.default is None else check_value(field.field_type, field.default)
        if wrong:
            what = f"the default is not of type {field.field_type}: {wrong}"
            yield Finding(
                ("state", "fields", name, "default"), what, f"write a value of type {field.field_type}, or change the type"
            )
        if name in ("state", "item", "item_index"):
            yield Finding(("state", "fields", name), f"{name} has a fixed meaning in prompts", "choose another name")


def _check_nodes(parts: Parts) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for number, node in parts.nodes:
        here: Path = ("nodes", number)
        if node.id in seen:
            yield Finding((*here, "id"), f"nodes[{seen[node.id]}] already has the id {node.id}", "give each node its own id")
        seen.setdefault(node.id, number)
        if node.id in (START, END):
            yield Finding((*here, "id"), f"{node.id} is reserved for the beginning or the end of a workflow", "choose another id")
        for name, reference in node.inputs.items():
            source = parse_reference(reference)[0]
            if source not in parts.names:
                yield Finding((*here, "inputs", name), f"{source} is not a state field", suggest(source, parts.names))
        known = parts.names | set(node.inputs) | {"item", "item_index"}
        for key, text in (("prompt", node.prompt), ("system", node.system)):
            for name in parse_template(text).names:
                if name not in known:
                    hint = f"{suggest(name, known - {'item', 'item_index'})}; to write braces, double them: {{{{{name}}}}}"
                    yield Finding((*here, key), f"{{{name}}} is neither a state field nor an input of this node", hint)
        yield from _check_outputs(here, node, parts)
        for index, tool in enumerate(node.tools):
            yield from _check_tool((*here, "tools", index), tool.name, tool.config)
        if parts.config is not None and not ((node.llm and node.llm.model) or parts.config.llm.model):
            hint = "set config.llm.model; with the router it names a tier, such as heavy"
            yield Finding((*here, "llm", "model"), f"node {node.id} has no model", hint)


def _check_outputs(here: Path, node: Node, parts: Parts) -> Iterator[Finding]:
    for number, name in enumerate(node.outputs):
        if name not in parts.names:
            yield Finding((*here, "outputs", number), f"{name} is not a state field", suggest(name, parts.names))
    fields = node.output_schema.fields
    if fields is None:
        if len(node.outputs) != 1:
            what = f"output_schema of type {node.output_schema.type} gives one output, and this node has {len(node.outputs)}"
            yield Finding((*here, "outputs"), what, "write output_schema: {type: object, fields: […]}, or name one output")
        else:
            yield from _check_output_type((*here, "output_schema", "type"), node.outputs[0], node.output_schema.type, parts)
        return
    names = [field.name for field in fields]
    for number, field in enumerate(fields):
        place: Path = (*here, "output_schema", "fields", number)
        if field.name in names[:number]:
            yield Finding((*place, "name"), f"the field {field.name} is defined twice", "remove one of the two")
        elif field.name not in node.outputs:
            yield Finding((*place, "name"), f"{field.name} is not an output of this node", suggest(field.name, node.outputs))
        yield from _check_output_type((*place, "type"), field.name, str(field.field_type), parts)
        for value in field.enum or ():
            if check_value(field.field_type, value):
                yield Finding(
                    (*place, "enum"), f"{value!r} is not of type {field.field_type}", f"write values of type {field.field_type}"
                )
    for number, name in enumerate(node.outputs):
        if name not in names:
            yield Finding((*here, "outputs", number), f"{name} is not defined in output_schema.fields", suggest(name, names))


def _check_output_type(path: Path, name: str, kind: str, parts: Parts) -> Iterator[Finding]:
    """A node must write the type of the state field. list fits list[T], and an int fits a float."""
    field = parts.fields.get(name)
    if field is None:
        return
    declared = str(field.field_type)
    loose = {declared.split("[", maxsplit=1)[0], kind.split("[", maxsplit=1)[0]}
    same = kind == declared or "any" in loose or (len(loose) == 1 and "[" not in f"{kind if '[' in declared else declared}")
    if not same and (kind, declared) != ("int", "float"):
        hint = f"write {declared}, or change the type of state.fields.{name}"
        yield Finding(path, f"{name} has type {kind} here and {declared} in the state", hint)


def _check_tool(path: Path, name: str, config: Mapping[str, object]) -> Iterator[Finding]:
    if name not in CONFIGS:
        hint = suggest(name, CONFIGS) + "; the tool http calls a service of your own"
        yield Finding((*path, "name"), f"{name} is not a tool", hint)
        return
    try:
        CONFIGS[name].model_validate(config)
    except ValidationError as error:
        for entry in error.errors():
            hint = suggest(str(entry["loc"][-1]), CONFIGS[name].model_fields) if entry["type"] == "extra_forbidden" else ""
            yield Finding((*path, "config", *entry["loc"]), str(entry["msg"]).removeprefix("Value error, "), hint)


def _check_condition(path: Path, text: str, parts: Parts) -> Iterator[Finding]:
    for name in sorted(parse_condition(text).names - parts.names):
        yield Finding(path, f"{name} is not a state field", suggest(name, parts.names) + "; put text in quotes")


def _check_edges(parts: Parts) -> Iterator[Finding]:
    sources: dict[str, int] = {}
    for number, edge in parts.edges:
        here: Path = ("edges", number)
        if edge.source not in parts.ids | {START}:
            yield Finding((*here, "from"), f"{edge.source} is not a node", suggest(edge.source, parts.ids | {START}))
        if edge.source in sources:
            what = f"edges[{sources[edge.source]}] leaves {edge.source} too, and a node has one edge"
            yield Finding((*here, "from"), what, "write one edge: to: [a, b] runs both nodes, routes choose one")
        sources.setdefault(edge.source, number)
        for path, target in list_targets(edge):
            if target not in parts.ids | {END}:
                yield Finding((*here, *path), f"{target} is not a node", suggest(target, parts.ids | {END}))
        yield from _check_routes(here, edge, parts)
        if edge.loop is not None:
            yield from _check_loop((*here, "loop"), edge, edge.loop, parts)
        if edge.parallel is not None:
            yield from _check_parallel((*here, "parallel"), edge.parallel, parts)
    if parts.whole and START not in sources:
        yield Finding(("edges",), "no edge leaves START", "write - {from: START, to: <first node>}")
    if parts.whole:
        for number, node in parts.nodes:
            if node.id not in sources:
                yield Finding(("nodes", number), f"no edge leaves {node.id}", f"write - {{from: {node.id}, to: END}}")


def list_targets(edge: Edge) -> Iterator[tuple[Path, str]]:
    """The targets of an edge, each with its key. A loop also leads back to its own node."""
    for number, target in enumerate(edge.to or ()):
        yield ("to", number), target
    for number, route in enumerate(edge.routes or ()):
        yield ("routes", number, "to"), route.to
    if edge.loop is not None:
        yield ("loop", "exit_to"), edge.loop.exit_to
    if edge.parallel is not None:
        yield ("parallel", "target_node"), edge.parallel.target_node


def _check_routes(here: Path, edge: Edge, parts: Parts) -> Iterator[Finding]:
    if edge.routes is None:
        return
    defaults = [number for number, route in enumerate(edge.routes) if route.condition.logic.strip() == "default"]
    if not defaults:
        what = "there is no default route, so a run may find no route to take"
        yield Finding((*here, "routes"), what, "add as the last route - {condition: {logic: default}, to: …}")
    elif defaults != [len(edge.routes) - 1]:
        yield Finding(
            (*here, "routes", defaults[0]),
            "the default route is not the last route, or not the only default",
            "keep one default, as the last route",
        )
    for number, route in enumerate(edge.routes):
        if number not in defaults:
            yield from _check_condition((*here, "routes", number, "condition", "logic"), route.condition.logic, parts)


def _check_loop(here: Path, edge: Edge, loop: Loop, parts: Parts) -> Iterator[Finding]:
    name = loop.condition_field
    if name not in parts.names:
        yield Finding((*here, "condition_field"), f"{name} is not a state field", suggest(name, parts.names))
    elif name in parts.fields and parts.fields[name].field_type.name != "bool":
        yield Finding(
            (*here, "condition_field"),
            f"{name} has type {parts.fields[name].field_type}, not bool",
            "name a state field of type bool",
        )
    if loop.exit_to == edge.source:
        yield Finding((*here, "exit_to"), "exit_to is the looping node itself", "name another node, or END")
    if edge.source == START:
        yield Finding(here, "START cannot loop", "put the loop on the edge of the node that repeats")


def _check_parallel(here: Path, parallel: Parallel, parts: Parts) -> Iterator[Finding]:
    for key in ("items_field", "collect_field"):
        name = getattr(parallel, key)
        if name not in parts.names:
            yield Finding((*here, key), f"{name} is not a state field", suggest(name, parts.names))
        elif name in parts.fields and parts.fields[name].field_type.name not in ("list", "any"):
            yield Finding(
                (*here, key), f"{name} has type {parts.fields[name].field_type}, not list", "name a state field of type list"
            )


def _check_reachability(parts: Parts) -> Iterator[Finding]:
    """Every node is reached from START and leads to END."""
    ahead: dict[str, set[str]] = {}
    for _unused, edge in parts.edges:
        ahead.setdefault(edge.source, set()).update(target for _unused, target in list_targets(edge))
    back: dict[str, set[str]] = {}
    for source, targets in ahead.items():
        for target in targets:
            back.setdefault(target, set()).add(source)
    reached, ending = _find_reachable(START, ahead), _find_reachable(END, back)
    for number, node in parts.nodes:
        if node.id not in reached:
            yield Finding(("nodes", number), f"no path from START reaches {node.id}", "add an edge to it, or remove the node")
        elif node.id in ahead and node.id not in ending:
            yield Finding(("nodes", number), f"no path leads from {node.id} to END", "add a path from it to END")


def _find_reachable(start: str, targets: Mapping[str, set[str]]) -> set[str]:
    seen, ahead = {start}, [start]
    while ahead:
        for name in targets.get(ahead.pop(), set()) - seen:
            seen.add(name)
            ahead.append(name)
    return seen


def find_join(start: Sequence[str], edges: Mapping[str, Edge]) -> str | None:
    """The node where straight branches join; None where a branch is not a straight line, or they never join."""
    lines = []
    for first in start:
        line = [first]
        while (edge := edges.get(line[-1])) is not None:
            if edge.to is None or len(edge.to) != 1 or edge.to[0] in line:
                break
            line.append(edge.to[0])
        lines.append(line)
    return next((name for name in lines[0] if all(name in line for line in lines)), None)


def _check_forks(parts: Parts) -> Iterator[Finding]:
    edges = {edge.source: edge for _unused, edge in parts.edges}
    nodes = {node.id: node for _unused, node in parts.nodes}
    for number, edge in parts.edges:
        if edge.to is None or len(edge.to) < 2:
            continue
        here: Path = ("edges", number, "to")
        join = find_join(edge.to, edges)
        if len(set(edge.to)) != len(edge.to):
            yield Finding(here, "a branch is named twice", "name each branch once; to run a node once per item, use parallel")
        elif join is None:
            hint = (
                "give every node of a branch one plain edge (to: one node), and let all branches end at the same node or at END"
            )
            yield Finding(here, "the branches do not join at one node", hint)
        elif join in edge.to:
            yield Finding(here, f"{join} is both a branch and the node where the other branches join", "remove it from the list")
        else:
            yield from _check_branch_outputs(here, edge.to, join, edges, nodes)


def _check_branch_outputs(
    here: Path, start: Sequence[str], join: str, edges: Mapping[str, Edge], nodes: Mapping[str, Node]
) -> Iterator[Finding]:
    writers: dict[str, str] = {}
    for branch in start:
        name = branch
        while name != join and name in nodes:
            for output in nodes[name].outputs:
                if writers.setdefault(output, branch) != branch:
                    what = f"the branches {writers[output]} and {branch} both write {output}"
                    yield Finding(here, what, "give each branch a state field of its own")
            name = (edges[name].to or [join])[0]
