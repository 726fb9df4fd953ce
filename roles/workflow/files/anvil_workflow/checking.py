# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What names refer to: every mistake in a workflow that its schema cannot see.

It works on the parts that could be read, so that one broken node hides nothing in the others.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from .conditions import parse_condition
from .kinds import check_value
from .prompts import parse_reference, parse_template
from .schema import END, START, Config, Edge, Loop, Node, Parallel, StateField
from .tools import CONFIGS

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Finding:
    path: Path
    what: str
    do: str = ""


@dataclass(frozen=True)
class Parts:
    """What could be read. names and ids: also of fields and nodes that could not; whole: nothing is missing."""

    fields: Mapping[str, StateField]
    nodes: Sequence[tuple[int, Node]]
    edges: Sequence[tuple[int, Edge]]
    outputs: Sequence[str] | None
    config: Config | None
    names: frozenset[str]
    ids: frozenset[str]
    whole: bool


def suggest(word: str, known: Iterable[str]) -> str:
    """``did you mean topic? there are: …``"""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, 1, 0.5)
    listed = f"there are: {', '.join(names)}" if names else "there are none"
    return f"did you mean {near[0]}? {listed}" if near else listed


def check_parts(parts: Parts) -> Iterator[Finding]:
    yield from _check_fields(parts)
    yield from _check_nodes(parts)
    yield from _check_edges(parts)
    if parts.whole:
        yield from _check_ways(parts)
        yield from _check_forks(parts)
    for number, name in enumerate(parts.outputs or ()):
        if name not in parts.names:
            yield Finding(("outputs", number), f"{name} is no state field", suggest(name, parts.names))
    for number, gate in enumerate(parts.config.gates.gates if parts.config else ()):
        if gate.condition is not None:
            yield from _check_condition(("config", "gates", "gates", number, "condition"), gate.condition, parts)


def _check_fields(parts: Parts) -> Iterator[Finding]:
    for name, field in parts.fields.items():
        wrong = "" if field.default is None else check_value(field.kind, field.default)
        if wrong:
            what = f"the default is no {field.kind}: {wrong}"
            yield Finding(("state", "fields", name, "default"), what, f"write a {field.kind}, or change the type")
        if name in ("state", "item", "item_index"):
            yield Finding(("state", "fields", name), f"{name} means something else in prompts", "choose another name")


def _check_nodes(parts: Parts) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for number, node in parts.nodes:
        here: Path = ("nodes", number)
        if node.id in seen:
            yield Finding((*here, "id"), f"the id {node.id} is taken by nodes[{seen[node.id]}]", "give each node its own id")
        seen.setdefault(node.id, number)
        if node.id in (START, END):
            yield Finding((*here, "id"), f"{node.id} is the name of the beginning or the end", "choose another id")
        for name, reference in node.inputs.items():
            source = parse_reference(reference)[0]
            if source not in parts.names:
                yield Finding((*here, "inputs", name), f"{source} is no state field", suggest(source, parts.names))
        known = parts.names | set(node.inputs) | {"item", "item_index"}
        for key, text in (("prompt", node.prompt), ("system", node.system)):
            for name in parse_template(text).names:
                if name not in known:
                    hint = f"{suggest(name, known - {'item', 'item_index'})}; for braces as they are write {{{{{name}}}}}"
                    yield Finding((*here, key), f"{{{name}}} is neither a state field nor an input of the node", hint)
        yield from _check_outputs(here, node, parts)
        for index, tool in enumerate(node.tools):
            yield from _check_tool((*here, "tools", index), tool.name, tool.config)
        if parts.config is not None and not ((node.llm and node.llm.model) or parts.config.llm.model):
            hint = "set config.llm.model; with the router that is a tier, such as heavy"
            yield Finding((*here, "llm", "model"), f"no model is set for node {node.id}", hint)


def _check_outputs(here: Path, node: Node, parts: Parts) -> Iterator[Finding]:
    for number, name in enumerate(node.outputs):
        if name not in parts.names:
            yield Finding((*here, "outputs", number), f"{name} is no state field", suggest(name, parts.names))
    fields = node.output_schema.fields
    if fields is None:
        if len(node.outputs) != 1:
            what = f"a node that answers with one {node.output_schema.type} has one output, not {len(node.outputs)}"
            yield Finding((*here, "outputs"), what, "write output_schema: {type: object, fields: […]}")
        else:
            yield from _check_kind((*here, "output_schema", "type"), node.outputs[0], node.output_schema.type, parts)
        return
    names = [field.name for field in fields]
    for number, field in enumerate(fields):
        place: Path = (*here, "output_schema", "fields", number)
        if field.name in names[:number]:
            yield Finding((*place, "name"), f"{field.name} is written twice", "drop one of the two")
        elif field.name not in node.outputs:
            yield Finding((*place, "name"), f"{field.name} is not among the node's outputs", suggest(field.name, node.outputs))
        yield from _check_kind((*place, "type"), field.name, str(field.kind), parts)
        for value in field.enum or ():
            if check_value(field.kind, value):
                yield Finding((*place, "enum"), f"{value!r} is no {field.kind}", f"write values of type {field.kind}")
    for number, name in enumerate(node.outputs):
        if name not in names:
            yield Finding((*here, "outputs", number), f"{name} is not in output_schema.fields", suggest(name, names))


def _check_kind(path: Path, name: str, kind: str, parts: Parts) -> Iterator[Finding]:
    """A node writes what the state field holds. list goes with list[T], and an int is a float."""
    field = parts.fields.get(name)
    if field is None:
        return
    wanted = str(field.kind)
    loose = {wanted.split("[", maxsplit=1)[0], kind.split("[", maxsplit=1)[0]}
    same = kind == wanted or "any" in loose or (len(loose) == 1 and "[" not in f"{kind if '[' in wanted else wanted}")
    if not same and (kind, wanted) != ("int", "float"):
        yield Finding(path, f"{name} is {kind} here and {wanted} in the state", f"write {wanted}, or change state.fields.{name}")


def _check_tool(path: Path, name: str, config: Mapping[str, object]) -> Iterator[Finding]:
    if name not in CONFIGS:
        hint = suggest(name, CONFIGS) + "; a service of your own is called with http"
        yield Finding((*path, "name"), f"{name} is no tool", hint)
        return
    try:
        CONFIGS[name].model_validate(config)
    except ValidationError as error:
        for entry in error.errors():
            hint = suggest(str(entry["loc"][-1]), CONFIGS[name].model_fields) if entry["type"] == "extra_forbidden" else ""
            yield Finding((*path, "config", *entry["loc"]), str(entry["msg"]).removeprefix("Value error, "), hint)


def _check_condition(path: Path, text: str, parts: Parts) -> Iterator[Finding]:
    for name in sorted(parse_condition(text).names - parts.names):
        yield Finding(path, f"{name} is no state field", suggest(name, parts.names) + "; text stands in quotes")


def _check_edges(parts: Parts) -> Iterator[Finding]:
    sources: dict[str, int] = {}
    for number, edge in parts.edges:
        here: Path = ("edges", number)
        if edge.source not in parts.ids | {START}:
            yield Finding((*here, "from"), f"{edge.source} is no node", suggest(edge.source, parts.ids | {START}))
        if edge.source in sources:
            what = f"edges[{sources[edge.source]}] leaves {edge.source} too"
            yield Finding((*here, "from"), what, "one edge for each node: to: [a, b] runs both, routes choose one")
        sources.setdefault(edge.source, number)
        for path, target in list_targets(edge):
            if target not in parts.ids | {END}:
                yield Finding((*here, *path), f"{target} is no node", suggest(target, parts.ids | {END}))
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
    """Where an edge may lead, each with its key. A loop also leads back to its own node."""
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
        what = "no route is the default: a state that fits none would be stuck"
        yield Finding((*here, "routes"), what, "end with - {condition: {logic: default}, to: …}")
    elif defaults != [len(edge.routes) - 1]:
        yield Finding((*here, "routes", defaults[0]), "the default is one route, and the last", "move it to the end")
    for number, route in enumerate(edge.routes):
        if number not in defaults:
            yield from _check_condition((*here, "routes", number, "condition", "logic"), route.condition.logic, parts)


def _check_loop(here: Path, edge: Edge, loop: Loop, parts: Parts) -> Iterator[Finding]:
    name = loop.condition_field
    if name not in parts.names:
        yield Finding((*here, "condition_field"), f"{name} is no state field", suggest(name, parts.names))
    elif name in parts.fields and parts.fields[name].kind.name != "bool":
        yield Finding((*here, "condition_field"), f"{name} is {parts.fields[name].kind}, not bool", "loop on a bool")
    if loop.exit_to == edge.source:
        yield Finding((*here, "exit_to"), "the loop leads out into itself", "exit_to is another node, or END")
    if edge.source == START:
        yield Finding(here, "START cannot be repeated", "put the loop on the edge of the node to repeat")


def _check_parallel(here: Path, parallel: Parallel, parts: Parts) -> Iterator[Finding]:
    for key in ("items_field", "collect_field"):
        name = getattr(parallel, key)
        if name not in parts.names:
            yield Finding((*here, key), f"{name} is no state field", suggest(name, parts.names))
        elif name in parts.fields and parts.fields[name].kind.name not in ("list", "any"):
            yield Finding((*here, key), f"{name} is {parts.fields[name].kind}, not a list", "name a list")


def _check_ways(parts: Parts) -> Iterator[Finding]:
    """Every node is reached from START and leads to END."""
    ahead: dict[str, set[str]] = {}
    for _unused, edge in parts.edges:
        ahead.setdefault(edge.source, set()).update(target for _unused, target in list_targets(edge))
    back: dict[str, set[str]] = {}
    for source, targets in ahead.items():
        for target in targets:
            back.setdefault(target, set()).add(source)
    reached, ending = _spread(START, ahead), _spread(END, back)
    for number, node in parts.nodes:
        if node.id not in reached:
            yield Finding(("nodes", number), f"{node.id} is never reached from START", "lead an edge to it, or drop it")
        elif node.id in ahead and node.id not in ending:
            yield Finding(("nodes", number), f"no way leads from {node.id} to END", "lead one of its edges out")


def _spread(start: str, ways: Mapping[str, set[str]]) -> set[str]:
    seen, ahead = {start}, [start]
    while ahead:
        for name in ways.get(ahead.pop(), set()) - seen:
            seen.add(name)
            ahead.append(name)
    return seen


def find_join(start: Sequence[str], edges: Mapping[str, Edge]) -> str | None:
    """Where branches meet that are straight lines; None where they are not, or do not meet."""
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
            yield Finding(here, "a branch is named twice", "name each branch once; a list of items is parallel:")
        elif join is None:
            hint = "inside a fork every node has one plain edge, and all of them come to one node, or to END"
            yield Finding(here, "the branches do not meet", hint)
        elif join in edge.to:
            yield Finding(here, f"{join} is a branch and the end of the other branches", "take it out of the list")
        else:
            yield from _check_writers(here, edge.to, join, edges, nodes)


def _check_writers(
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
