# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Layers: how they are merged, which of them wrote a value, and what the names of misspelt ones suggest."""

from __future__ import annotations

import copy

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.plan.build_plan import OTHER_VARIABLES, VARIABLES
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_layers import (
    LAYERED,
    drop_layers,
    find_layers,
    list_layers,
    merge_layers,
    split_layer,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_names import (
    describe_unknown,
    find_misspelt,
    find_without_prefix,
)

KNOWN = (*VARIABLES, *OTHER_VARIABLES)


def merge(*values):
    return merge_layers([(f"v{number}", value) for number, value in enumerate(values)])


@pytest.mark.parametrize(
    ("layers", "value"),
    [
        ([{"a": 1}, {"b": 2}], {"a": 1, "b": 2}),
        ([{"a": {"x": 1, "y": 2}}, {"a": {"y": 3}}], {"a": {"x": 1, "y": 3}}),
        ([{"a": [1, 2]}, {"a": [3]}], {"a": [3]}),
        ([{"a": {"x": 1}}, {"a": None}], {}),
        ([{"a": {"x": 1, "y": 2}}, {"a": {"x": None}}], {"a": {"y": 2}}),
        ([{"a": 1}, {"a": None}, {"a": 2}], {"a": 2}),
        ([{"a": {"x": 1}}, {"a": 5}], {"a": 5}),
        ([{"a": 5}, {"a": {"x": 1}}], {"a": {"x": 1}}),
        ([{"a": {}}, {"a": {"x": 1}}], {"a": {"x": 1}}),
        ([{"a": {"x": 1}}, {"a": {}}], {"a": {"x": 1}}),
        ([{"a": None}], {"a": None}),
        ([{"a": None}, {"b": 1}], {"a": None, "b": 1}),
    ],
)
def test_layers_are_merged_key_by_key_and_null_removes_a_key(layers, value):
    before = copy.deepcopy(layers)
    assert merge(*layers).value == value
    assert layers == before


def test_the_order_is_that_of_the_suffixes_and_the_variable_without_one_is_first():
    names = [
        "anvil_serves__b",
        "anvil_serves",
        "anvil_serves__10_x",
        "anvil_serves__a",
        "anvil_gpus__a",
        "anvil_serves_x",
        "other",
    ]
    assert list_layers(names, "anvil_serves") == ["anvil_serves", "anvil_serves__10_x", "anvil_serves__a", "anvil_serves__b"]
    assert split_layer("anvil_root__x") == ("anvil_root__x", "")
    assert drop_layers(dict.fromkeys(names), ["anvil_serves"]) == dict.fromkeys(["anvil_gpus__a", "anvil_serves_x", "other"])


def test_each_leaf_knows_its_layer_and_each_replaced_value_is_listed():
    merged = merge({"a": {"x": 1, "y": 2}, "n": 1}, {"a": {"y": 3, "z": 4}, "n": 1}, {"a": {"z": None, "q": None}})
    assert merged.sources == {("a", "x"): "v0", ("a", "y"): "v1", ("n",): "v1"}
    assert [(one.path, one.loser, one.winner) for one in merged.overrides] == [(("a", "y"), "v0", "v1"), (("a", "z"), "v1", "v2")]
    assert merged.idle == [(("a", "q"), "v2")]
    assert find_layers(merged.sources, ["a", "y"]) == ["v1"]
    assert find_layers(merged.sources, ["a", "missing"]) == ["v0", "v1"]
    assert find_layers(merged.sources, ["n", "0"]) == ["v1"]


def test_every_layered_variable_is_one_of_the_inventory():
    assert set(LAYERED) <= set(VARIABLES)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("anvil_serve__x", "did you mean anvil_serves__x?"),
        ("anvil_serves_gpu", "did you mean anvil_serves__gpu?"),
        ("anvil_serves___gpu", "did you mean anvil_serves__gpu?"),
        ("anvil_serves__", "such as anvil_serves__gpu"),
        ("anvil_root__x", "set anvil_root in host_vars or group_vars"),
        ("anvil_engine__gpu", "did you mean anvil_engines__gpu?"),
        ("anvil_sevres", "did you mean anvil_serves?"),
    ],
)
def test_an_unknown_variable_has_a_suggestion(name, hint):
    assert hint in describe_unknown(name, KNOWN)[1]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("avnil_serves", "anvil_serves"),
        ("anvl_gpus", "anvil_gpus"),
        ("anvill_serves__gpu", "anvil_serves__gpu"),
        ("avnil_serves_gpu", "anvil_serves__gpu"),
        ("Anvil_serves", "anvil_serves"),
        ("ANVIL_ROOT", "anvil_root"),
        ("anvil-serves", "anvil_serves"),
        ("anvilserves", "anvil_serves"),
        ("anvi_router", "anvil_router"),
    ],
)
def test_a_misspelt_variable_is_found(name, meant):
    assert find_misspelt([name], KNOWN) == [(name, meant)]


@pytest.mark.parametrize(
    "name",
    ["anvil", "ansible_host", "ansible_root", "evil_serves", "serves", "inventory_dir", "anvil_serves", "models_list",
     "router_image", "secrets_dir", "api_serves", "vault_secrets", "annual_report", "canvas_router"],
)  # fmt: skip
def test_a_variable_of_somebody_else_is_none(name):
    assert not find_misspelt([name], KNOWN)


def test_a_mapping_without_the_prefix_is_told_where_the_variable_is_not_written():
    serves = {"fast": {"engine": "vllm", "port": 1}}
    assert find_without_prefix({"serves": serves, "gpus": {"a": {"uuid": "GPU-1"}}}, KNOWN) == [
        ("serves", "anvil_serves"),
        ("gpus", "anvil_gpus"),
    ]
    assert not find_without_prefix({"serves": "fast", "gpus": {"count": 2}, "logs": {"a": {}}}, KNOWN)
    assert not find_without_prefix({"serves": serves, "anvil_serves__x": {}}, KNOWN)
