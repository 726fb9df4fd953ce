"""Which containers count as an experiment, and when it expires."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.serves.experiments import group_experiments


def container(name: str, project: str, created: int, ttl: str = "", label: str = "trial") -> dict[str, object]:
    labels = {"com.docker.compose.project": project, "anvil.serving.experiment": label}
    labels |= {"anvil.serving.ttl": ttl} if ttl else {}
    return {"Id": name, "Names": ["/" + name], "State": "running", "Created": created, "Labels": labels}


def test_a_container_is_an_experiment_only_if_its_project_matches_its_label() -> None:
    ours = [container("a", "anvil-experiment-trial", 100, "60"), container("b", "anvil-experiment-trial", 150, "60")]
    strangers = [
        container("c", "anvil-serves", 0, "1"),
        container("d", "", 0, "1"),
        container("e", "anvil-experiment-other", 0, "1"),
    ]
    (found,) = group_experiments([*ours, *strangers])
    assert (found.name, found.ids, found.expires) == ("trial", ("a", "b"), 210)
    assert not found.is_expired(209) and found.is_expired(210)


@pytest.mark.parametrize("ttl", ["", "0", "soon", "-5"])
def test_an_experiment_without_a_time_to_live_never_expires(ttl: str) -> None:
    (found,) = group_experiments([container("a", "anvil-experiment-trial", 100, ttl)])
    assert found.expires is None and not found.is_expired(10**12)
