"""Parsing of the answers of HAProxy's runtime API."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_layout import parse_config_hash
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_servers import (
    ClientUse,
    Server,
    parse_clients,
    parse_servers,
)

# HAProxy 3.0: `show stat -1 4 -1`, its first columns.
SAID = """# pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,wredis,status,weight,
routers,anvil-router-2,0,0,0,2,60,9,0,0,,0,,0,0,0,0,MAINT,1,
routers,anvil-router-1,3,5,60,60,60,92,0,0,,0,,0,0,0,0,UP 2/4,1,

"""


def test_servers_are_read_by_name_with_the_first_word_of_their_status() -> None:
    assert parse_servers(SAID) == [
        Server("anvil-router-1", "UP", 60, 3, "routers"),
        Server("anvil-router-2", "MAINT", 0, 0, "routers"),
    ]


@pytest.mark.parametrize("text", ["", "Permission denied", "Unknown command: 'show'"])
def test_text_without_a_list_of_servers_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_servers(text)


def test_a_description_without_a_hash_gives_an_empty_hash() -> None:
    assert parse_config_hash("description anvil " + "a" * 64) == "a" * 64
    assert parse_config_hash("description mine") == ""


def test_the_table_of_clients_is_read_by_name() -> None:
    text = """# table: clients, type: string, size:10240, used:2
0x7f00: key=secret:router_token use=0 exp=3599999 shard=0 conn_cur=0 gpc0=3 gpc0_rate(60000)=3 http_req_cnt=5 bytes_out_cnt=910
0x7f01: key=alice use=1 exp=3599999 shard=0 conn_cur=2 gpc0=7 gpc0_rate(60000)=7 http_req_cnt=7 bytes_out_cnt=0
"""
    assert parse_clients(text) == [ClientUse("alice", 7, 7, 2), ClientUse("secret:router_token", 5, 3, 0)]
    assert parse_clients("# table: clients, type: string, size:10240, used:0\n") == parse_clients("") == []
