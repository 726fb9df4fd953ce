# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An image for another processor than the host's: impossible with a proof, doubtful without, and nothing where it may run."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.host.emulation import list_emulated, read_emulated
from ansible_collections.anvil.serving.plugins.module_utils.images.platform import (
    judge_image,
    judge_offer,
    name_platform,
    read_offer,
    runs_here,
)

AMD, ARM = "linux/amd64", "linux/arm64"
INDEX, SINGLE = "application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.v2+json"


@pytest.mark.parametrize(
    ("platform", "host", "runs"),
    [
        (AMD, AMD, True),
        (ARM, AMD, False),
        (AMD, ARM, False),
        ("linux/386", AMD, True),
        ("linux/arm", ARM, True),
        ("linux/arm", AMD, False),
        ("windows/amd64", AMD, False),
        ("linux/s390x", AMD, False),
        ("", AMD, True),
        (AMD, "", True),
    ],
)
def test_a_host_runs_its_own_platform_and_older_ones_of_it(platform: str, host: str, runs: bool) -> None:
    assert runs_here(platform, host) == runs


@pytest.mark.parametrize(
    ("system", "processor", "named"),
    [
        ("linux", "x86_64", AMD),
        ("Linux", "aarch64", ARM),
        ("", "amd64", AMD),
        (None, None, ""),
        ("unknown", "unknown", ""),
        ("linux", "riscv64", "linux/riscv64"),
    ],
)
def test_platforms_have_one_name_whatever_reports_them(system: Any, processor: Any, named: str) -> None:
    assert name_platform(system, processor) == named


def offer(media: str, *processors: str) -> tuple[list[str], bool]:
    rows = [{"os": "linux" if each != "unknown" else "unknown", "architecture": each} for each in processors]
    return read_offer({"Descriptor": {"mediaType": media}, "Platforms": rows})


@pytest.mark.parametrize(
    ("offered", "host", "emulated", "verdict", "said"),
    [
        (offer(INDEX, "amd64", "arm64"), ARM, frozenset(), None, ""),
        (offer(INDEX, "amd64", "unknown"), ARM, frozenset(("amd64",)), "impossible", "no matching manifest for linux/arm64"),
        (offer(INDEX, "arm64", "arm"), AMD, None, "impossible", "only for linux/arm, linux/arm64"),
        (offer(SINGLE, "amd64"), ARM, frozenset(), "doubtful", "does not emulate amd64"),
        (offer(SINGLE, "amd64"), ARM, frozenset(("amd64",)), "doubtful", "many times slower"),
        (offer(SINGLE, "arm64"), AMD, None, "doubtful", "not known"),
        (offer(SINGLE, "unknown"), AMD, None, None, ""),
        (offer(SINGLE), AMD, None, None, ""),
        (read_offer({}), AMD, None, None, ""),
    ],
)
def test_a_pull_is_refused_only_where_docker_itself_refuses_it(
    offered: tuple[list[str], bool], host: str, emulated: frozenset[str] | None, verdict: str | None, said: str
) -> None:
    found = judge_offer(offered, host, emulated, "serve heavy")
    assert (found.verdict if found else None) == verdict
    assert found is None or said in found.as_text()


@pytest.mark.parametrize(
    ("platform", "refusal", "verdict"),
    [
        (AMD, None, None),
        (ARM, "exec /usr/bin/vllm: exec format error", "impossible"),
        (ARM, "", "doubtful"),  # it started: emulated, or a wrong label
        (ARM, None, "doubtful"),
    ],
)
def test_an_image_is_refused_only_with_the_words_of_the_kernel(platform: str, refusal: str | None, verdict: str | None) -> None:
    found = judge_image(platform, AMD, frozenset(), refusal, "serve heavy")
    assert (found.verdict if found else None) == verdict


def handler(machine: str, flags: str = "OCF", state: str = "enabled", offset: str = "0") -> str:
    magic = "7f454c460201010000000000000000000200" + machine
    return f"{state}\ninterpreter /usr/bin/qemu-x-static\nflags: {flags}\noffset {offset}\nmagic {magic}\nmask ff\n"


@pytest.mark.parametrize(
    ("texts", "emulated"),
    [
        ([handler("b700")], {"arm64"}),
        ([handler("3e00"), handler("2800")], {"amd64", "arm"}),
        ([handler("b700", flags="OC")], set()),  # its program would have to be in the image
        ([handler("b700", state="disabled")], set()),
        ([handler("b700", offset="4")], set()),
        ([handler("ffff"), "", "enabled\nextension .py\n", "enabled\nflags: F\nmagic 4d5a\n"], set()),
    ],
)
def test_a_processor_is_emulated_where_the_kernel_has_a_handler_for_containers(texts: list[str], emulated: set[str]) -> None:
    assert list_emulated(texts) == emulated


def test_the_handlers_of_the_kernel_are_read(tmp_path: Any) -> None:
    assert read_emulated(str(tmp_path)) is None
    (tmp_path / "status").write_text("enabled\n")
    (tmp_path / "register").write_text("")
    (tmp_path / "qemu-aarch64").write_text(handler("b700"))
    assert read_emulated(str(tmp_path)) == {"arm64"}
    (tmp_path / "status").write_text("disabled\n")
    assert read_emulated(str(tmp_path)) == set()
