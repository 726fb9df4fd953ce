# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A candidate with earlier evidence is not observed for long."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.module import DEFAULT_SOCKET
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.promotion.journal import DONE, Journal
from ansible_collections.anvil.serving.plugins.module_utils.promotion.loaded_revision import has_earlier_evidence
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica import ContainerState, ValidatedCandidate
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica_group import ReplicaGroup
from ansible_collections.anvil.serving.plugins.module_utils.promotion.request import PromotionRequest
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import Entry, Place, Snapshot, hash_revision
from ansible_collections.anvil.serving.plugins.module_utils.router.router_container import RouterContainer
from ansible_collections.anvil.serving.plugins.module_utils.router.router_settings import RouterSettings

PLACE = Place("cfg", "/etc/anvil", "router", ("config.toml", "profile.json"))


NOW = 5000.0
LIVE = {"config.toml": b"one", "profile.json": b"{}"}


@pytest.mark.parametrize(
    ("files", "view", "proved_by", "proven"),
    [
        # the process that runs has lived on this config; another profile is only looked things up in
        ({**LIVE, "profile.json": b"[]"}, {"started_at": 4000.0}, "", True),
        ({**LIVE, "config.toml": b"two"}, {"started_at": 4000.0}, "", False),
        # it has not lived for long; it runs another image; it has not read these files; it does not run
        (LIVE, {"started_at": 4995.0}, "", False),
        (LIVE, {"started_at": 4000.0, "image_id": "other"}, "", False),
        (LIVE, {"started_at": 900.0}, "", False),
        (LIVE, {"started_at": 4000.0, "status": "exited"}, "", False),
        # it was watched before, by this image or by another
        (LIVE, {"started_at": 4995.0}, "image", True),
        (LIVE, {"started_at": 4995.0}, "other", False),
        # a crash loop speaks against it
        (LIVE, {"started_at": 4995.0, "restarts": 3}, "image", False),
        (LIVE, {"started_at": 4995.0, "status": "restarting"}, "image", False),
        ({"config.toml": b"two"}, {"started_at": 4995.0, "restarts": 3}, "", False),
    ],
)
def test_a_candidate_has_earlier_evidence(files: dict[str, bytes], view: dict[str, Any], proved_by: str, proven: bool) -> None:
    live = hash_revision(LIVE)
    folder = ".anvil/revisions/" + live
    inner = {
        ".anvil/live/router": Entry("link", target="../revisions/" + live),
        folder: Entry("folder"),
        folder + "/meta.json": Entry("file", content=b'{"proved_by": "%s"}' % proved_by.encode()),
        **{f"{folder}/{name}": Entry("file", content=content) for name, content in LIVE.items()},
    }
    stock = {name: Entry("link", target=".anvil/live/router/" + name) for name in LIVE}
    snapshot = Snapshot(PLACE, stock, inner, {})
    settings = RouterSettings("router", "cfg", "/etc/anvil")
    router = RouterContainer(DockerEngine(DEFAULT_SOCKET), settings, PromotionRequest(files={}))
    seen = ContainerState(**{"exists": True, "status": "running", "image_id": "image", **view})
    group = ReplicaGroup((router,))
    candidate = ValidatedCandidate("", files, {"image": "image"})
    assert (
        has_earlier_evidence(group, snapshot, Journal(DONE, "a" * 64, live, 1000.0), {"router": seen}, candidate, NOW) == proven
    )
