"""A serve over several hosts: what each host gets, which layouts fit, and what is refused before any host is contacted."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.plan.build_plan import build_plan
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan, ServePlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.serves_over_hosts import check_partners, list_partners

HOSTS = ["a", "b"]
FABRIC = {"a": {"address": "10.0.0.1", "interface": "eth1"}, "b": {"address": "10.0.0.2", "interface": "eth1"}}
MODEL = {"model": "/models/x", "volumes": ["models:/models:ro"], "port": 30002, "image": "i:1", "hosts": HOSTS, "fabric": FABRIC}


def cards(count: int) -> dict[str, Any]:
    return {f"g{n}": {"uuid": f"GPU-00000000-0000-0000-0000-{n:012d}", "vram_mib": 80000} for n in range(count)}


def vllm(count: int, *args: str, **keys: Any) -> dict[str, Any]:
    serve = {"engine": "vllm", **MODEL, "gpus": list(cards(count)), "args": list(args), **keys}
    return {"anvil_gpus": cards(count), "anvil_serves": {"big": serve}}


def llama(**keys: Any) -> dict[str, Any]:
    return {"anvil_serves": {"pair": {"engine": "llama_cpp", **MODEL, **keys}}}


def plan(host: str, variables: dict[str, Any], **facts: str) -> HostPlan:
    return build_plan(host, variables, facts)


def part(host: str, variables: dict[str, Any]) -> ServePlan:
    (serve,) = plan(host, variables).serves
    return serve


def value_of(serve: ServePlan, flag: str) -> str | None:
    return serve.args[serve.args.index(flag) + 1] if flag in serve.args else None


LAYOUTS = {
    "two cards on two hosts": (1, [], ("1", "2")),
    "8 cards on each": (8, [], ("8", "2")),
    "on the CPU": (0, [], ("1", "2")),
    "tensor over all": (1, ["--tensor-parallel-size", "2"], ("2", "1")),
    "pipeline over all": (2, ["-pp", "4"], ("1", "4")),
    "pipeline inside hosts too": (4, ["--pipeline-parallel-size=4"], ("2", "4")),
    "both": (4, ["-tp", "2", "-pp", "4"], ("2", "4")),
    "expert parallel takes the same cards": (8, ["--enable-expert-parallel"], ("8", "2")),
    "data parallel takes its share": (2, ["--data-parallel-size", "2"], ("2", "1")),
}


@pytest.mark.parametrize(("count", "args", "sizes"), LAYOUTS.values(), ids=LAYOUTS)
def test_parallel_sizes_multiply_to_the_cards_of_all_hosts(count: int, args: list[str], sizes: tuple[str, str]) -> None:
    serve = part("a", vllm(count, *args))
    words = " ".join(serve.args).replace("=", " ").split()

    def last(*flags: str) -> str:
        found = [words[number + 1] for number, word in enumerate(words) if word in flags]
        assert len(found) == 1, words
        return found[0]

    assert (last("--tensor-parallel-size", "-tp"), last("--pipeline-parallel-size", "-pp")) == sizes


@pytest.mark.parametrize(
    ("count", "args", "product"),
    [
        (1, ["-tp", "4"], "need 4 cards, and the serve"),
        (2, ["-tp", "3"], "need 3"),
        (2, ["-tp", "2", "-pp", "3"], "need 6"),
    ],
)
def test_sizes_that_do_not_are_refused_with_the_arithmetic(count: int, args: list[str], product: str) -> None:
    with pytest.raises(AnvilError) as caught:
        plan("a", vllm(count, *args))
    (problem,) = caught.value.problems
    assert product in problem.what and f"2 hosts x {count} cards" in problem.why


def test_the_head_and_its_member_of_vllm() -> None:
    head, member = part("a", vllm(1)), part("b", vllm(1))
    for rank, serve in enumerate((head, member)):
        assert value_of(serve, "--nnodes") == "2" and value_of(serve, "--node-rank") == str(rank)
        assert (value_of(serve, "--master-addr"), value_of(serve, "--master-port")) == ("10.0.0.1", "29501")
        names = ("VLLM_HOST_IP", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
        assert [serve.environment[name] for name in names] == [f"10.0.0.{rank + 1}", "eth1", "eth1"]
        assert (serve.host_network, serve.ipc, serve.restart) == (True, "host", "unless-stopped")
    assert "--headless" not in head.args and member.args[-1] == "--headless"
    assert head.warmup and head.address == "10.0.0.1" and head.held_ports == (("10.0.0.1", 29501),)


def test_rdma_devices_and_the_inventorys_own_variables() -> None:
    fabric = {name: {**end, "rdma": ["mlx5_0", "mlx5_1"]} for name, end in FABRIC.items()}
    serve = part("b", vllm(8, fabric=fabric, environment={"NCCL_SOCKET_IFNAME": "^lo", "NCCL_DEBUG": "INFO"}))
    assert serve.environment["NCCL_IB_HCA"] == "mlx5_0,mlx5_1" and serve.environment["NCCL_SOCKET_IFNAME"] == "^lo"
    assert serve.devices == ("/dev/infiniband",) and serve.memlock and "IPC_LOCK" in serve.cap_add


def test_the_head_and_its_members_of_llama_cpp() -> None:
    hosts = {"hosts": ["a", "b", "c"], "fabric": {"a": "10.0.0.1", "b": "10.0.0.2", "c": "fd00::3"}, "rpc_port": 50100}
    head, member = part("a", llama(**hosts)), part("c", llama(**hosts))
    assert value_of(head, "--rpc") == "10.0.0.2:50100,[fd00::3]:50100" and not head.closed
    assert (member.bind, member.port, member.entrypoint) == ("[fd00::3]", 50100, ("ggml-rpc-server",))
    assert member.mounts == () and member.closed and member.args == ("--host", "0.0.0.0", "--port", "50100")
    notes = plan("a", llama(**hosts)).notes
    assert any("insecure" in note and "private network" in note for note in notes)


def test_a_change_of_one_flag_changes_every_part() -> None:
    for make in (lambda *args: vllm(1, *args), lambda *args: llama(args=list(args))):
        before, after = ([part(host, make(*args)) for host in HOSTS] for args in ((), ("--seed", "3")))
        marks = [serve.environment["ANVIL_HOSTS_DEFINITION"] for serve in (*before, *after)]
        assert marks[0] == marks[1] != marks[2] == marks[3]


def test_a_key_that_only_the_head_uses_changes_every_part_too() -> None:
    secrets = {"anvil_secrets": {"k": None}}
    for host in HOSTS:
        plain, keyed = (
            build_plan(host, {**secrets, **llama(**keys)}, {"k": "file"}).serves[0] for keys in ({}, {"api_key": "k"})
        )
        assert plain.environment["ANVIL_HOSTS_DEFINITION"] != keyed.environment["ANVIL_HOSTS_DEFINITION"]


def test_other_hosts_of_the_group_do_not_run_it_and_members_are_no_tier() -> None:
    router = {"anvil_secrets": {"router_token": None}, "anvil_router": {"image": "anvil.local/router:0.13.2"}}
    own = {"small": {"engine": "vllm", "image": "i:1", "model": "/models/y", "port": 30009, "volumes": ["models:/models:ro"]}}
    variables = {**vllm(1), **router}
    variables["anvil_serves"] = {**variables["anvil_serves"], **own}
    tiers = {}
    for host in ("a", "b", "elsewhere"):
        made = build_plan(host, variables, {"router_token": "file"}).router
        assert made is not None
        tiers[host] = {tier.id: tier.base_url for tier in made.tiers}
    assert tiers["a"]["big"] == "http://10.0.0.1:30002/v1"
    assert list(tiers["b"]) == list(tiers["elsewhere"]) == ["small"]


REFUSED = {
    "one host": (vllm(1, hosts=["a"], fabric={"a": "10.0.0.1"}), "at least two"),
    "twice": (vllm(1, hosts=["a", "a"]), "listed twice"),
    "no fabric": (vllm(1, fabric=None), "by which address"),
    "no address of one": (vllm(1, fabric={"a": "10.0.0.1"}), "host b has no address"),
    "one address for both": (vllm(1, fabric={"a": "10.0.0.1", "b": "10.0.0.1"}), "two hosts have the address"),
    "a name": (vllm(1, fabric={"a": "10.0.0.1", "b": "b.example"}), "not an IP address"),
    "loopback": (vllm(1, fabric={"a": "127.0.0.1", "b": "10.0.0.2"}), "no address of the fabric"),
    "every address": (llama(fabric={"a": "0.0.0.0", "b": "10.0.0.2"}), "no address of the fabric"),
    "a stranger": (vllm(1, fabric={**FABRIC, "c": "10.0.0.3"}), "no host of this serve"),
    "another engine": (vllm(1, engine="sglang"), "sglang cannot run over several hosts"),
    "a flag of the plan": (vllm(1, "--nnodes", "3"), "sets --nnodes itself"),
    "headless": (vllm(1, "--headless"), "not answer HTTP"),
    "rpc by hand": (llama(args=["--rpc", "10.0.0.2:1"]), "sets --rpc itself"),
    "a port of the other engine": (vllm(1, rpc_port=50052), "for engine llama_cpp"),
    "on demand": (vllm(1, residency="on_demand"), "is resident"),
    "closed": (llama(egress=False), "cut the hosts"),
    "different numbers of cards": (vllm(2, gpus={"a": ["g0"], "b": ["g0", "g1"]}), "different numbers of GPUs: a 1, b 2"),
    "no cards of one": (vllm(2, gpus={"a": ["g0"]}), "which GPUs of b"),
    "keys without hosts": (vllm(1, hosts=None), "for a serve over several hosts"),
    "the master port of another serve": (
        {**vllm(1), "anvil_serves": {**vllm(1)["anvil_serves"], "other": {**MODEL, "engine": "vllm", "port": 29501}}},
        "29501",
    ),
}


@pytest.mark.parametrize(("variables", "what"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(variables: dict[str, Any], what: str) -> None:
    with pytest.raises(AnvilError) as caught:
        plan("a", variables)
    assert what in caught.value.as_text()


def test_each_host_may_give_other_cards() -> None:
    variables = vllm(2, gpus={"a": ["g0"], "b": ["g1"]})
    assert [part(host, variables).gpus for host in HOSTS] == [("g0",), ("g1",)]


def test_partners_are_compared_and_every_reason_is_told() -> None:
    def seeded(host: str, seed: str) -> HostPlan:
        return plan(host, vllm(1, "--seed", seed, environment={"X": seed}))

    mine, same, other = seeded("a", "1"), seeded("b", "1"), seeded("b", "2")
    assert list_partners(mine.serves) == ("a", "b") and list_partners(()) == ()
    assert check_partners(mine, {"b": same}, HOSTS) == ([], [])
    (problem,), _notes = check_partners(mine, {"b": other}, HOSTS)
    assert problem.why == "different: args (--seed 1 and --seed 2), environment (X)"
    (problem,), _notes = check_partners(mine, {"b": plan("b", {})}, HOSTS)
    assert problem.what == "host b has no serve big"
    (problem,), _notes = check_partners(mine, {"b": None}, ["a", "bb"])
    assert problem.what == "the inventory has no host b" and "bb" in problem.hint
    with pytest.raises(AnvilError) as caught:
        plan("b", vllm(1, "-tp", "7", platform="x"))
    (problem,), _notes = check_partners(mine, {"b": caught.value}, HOSTS)
    assert "has 2 mistakes" in problem.what and "anvil_serves.big.args" in problem.why and "platform" in problem.why


def test_different_cards_are_told() -> None:
    mine, other = vllm(1), vllm(1)
    other["anvil_gpus"] = {"g0": {**cards(1)["g0"], "vram_mib": 40000}}
    problems, (note,) = check_partners(plan("a", mine), {"b": plan("b", other)}, HOSTS)
    assert not problems and "a 80000 MiB" in note and "b 40000 MiB" in note


def test_ray_is_refused_and_members_get_no_flag_of_the_api() -> None:
    with pytest.raises(AnvilError, match="ray does not work over several hosts"):
        plan("a", vllm(1, "--distributed-executor-backend", "ray"))
    for words in (["--api-server-count", "2"], ["--api_server_count=2"], ["-asc", "2"]):
        head, member = part("a", vllm(1, *words, "--seed", "1")), part("b", vllm(1, *words, "--seed", "1"))
        assert head.args[: len(words)] == tuple(words) and member.args[:2] == ("--seed", "1")


def test_a_host_that_is_no_name_is_a_mistake_beside_cards_for_each_host() -> None:
    with pytest.raises(AnvilError) as raised:
        plan("a", {"anvil_serves": {"heavy": {"hosts": [[]], "gpus": {}}}})
    assert any(problem.where.startswith("anvil_serves.heavy.hosts") for problem in raised.value.problems)
