"""llama-server of three years: each build alone says which options it has. Only `make llama` runs these tests."""

from __future__ import annotations

import io
import subprocess
import tarfile

import pytest
from bed import Bed
from llamabuilds import BUILDS
from serving import LLAMA, UNCHANGED, Field, actions

OLD, YOUNGER = (f"anvil.test/llama-build:{build.name}" for build in BUILDS)
# words -> who accepts them, of (2024-08, 2025-08, the test-bed's build of 2026)
OPTIONS = {
    ("-fa",): (True, True, False),
    ("-fa", "on"): (False, False, True),
    ("--no-mmap",): (True, True, False),
    ("--load-mode", "none"): (False, False, True),
    ("--draft", "3"): (True, True, False),
    ("--log-format", "json"): (True, False, False),
    ("--reranking",): (False, True, True),
    ("-c", "many"): (False, False, False),
    ("-ngl", "all"): (False, False, True),
    ("--defrag-thold", "0.1"): (True, True, True),
}


@pytest.fixture(scope="module", autouse=True)
def images(bed: Bed) -> None:
    """An image of each build, that holds the program alone."""
    for build in BUILDS:
        if not build.program.exists():
            pytest.skip("the builds are not compiled; run: make llama")
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add(build.program, "usr/bin/llama-server")
        argv = [
            "docker",
            "import",
            "--change",
            'ENTRYPOINT ["/usr/bin/llama-server"]',
            "-",
            f"anvil.test/llama-build:{build.name}",
        ]
        subprocess.run(argv, input=packed.getvalue(), check=True, capture_output=True)


@pytest.mark.parametrize("words", OPTIONS, ids=" ".join)
def test_each_build_judges_its_own_options(field: Field, words: tuple[str, ...]) -> None:
    heavy = field.serves["heavy"]
    del field.serves["fast"]
    for image, accepts in zip((OLD, YOUNGER, LLAMA), OPTIONS[words], strict=True):
        field.edit("heavy", image=image, args=(*heavy.args, *words))
        asked = field.run(check=True, engine_check="always")
        assert asked["failed"] is not accepts, asked.get("msg")
        if not accepts:
            assert "the engine refuses the command line" in asked["msg"], asked["msg"]


def test_an_older_image_is_refused_while_the_newer_one_serves(field: Field) -> None:
    """A roll back of the image alone would not start: -fa has a value in the arguments."""
    heavy = field.serves["heavy"]
    del field.serves["fast"]
    field.edit("heavy", args=(*heavy.args, "-fa", "on"))
    assert not field.run()["failed"]
    before = field.bed.started()
    field.edit("heavy", image=YOUNGER)
    refused = field.run()
    assert "the engine refuses the command line: -fa" in refused["msg"] and field.bed.started() == before
    field.edit("heavy", image=LLAMA)
    assert actions(field.run()) == {"heavy": UNCHANGED} and field.bed.started() == before
