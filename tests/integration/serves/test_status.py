"""Status and logs of a real host: the table, the JSON, and the page in a real Chromium."""

from __future__ import annotations

import html.parser
import json
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from bed import RTX_5090, RTX_PRO_6000, Bed
from browser import keep_for_docs
from conftest import REPO
from drive import play, succeed, write_inventory

BIG, SMALL = RTX_PRO_6000.uuid, RTX_5090.uuid
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--window-size=1280,690", "--hide-scrollbars"]


@pytest.fixture(scope="session")
def chromium() -> str:
    """The Chromium of the distribution; tests/testbed/tools.sh installs it before the bed starts."""
    found = shutil.which("chromium")
    assert found, "the page's test needs chromium: run tests/testbed/tools.sh, or make integration"
    return found


def browse(chromium: str, page: Path, *words: str) -> str:
    profile = page.parent / f"profile-{len(list(page.parent.iterdir()))}"
    argv = [chromium, *FLAGS, f"--user-data-dir={profile}", *words, page.as_uri()]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def make_inventory(folder: Path, models: Path, serves: dict[str, dict[str, object]]) -> Path:
    defaults = {"engine": "llama_cpp"}
    return write_inventory(
        folder,
        anvil_root=str(folder / "anvil"),
        anvil_gpus={"big": {"uuid": BIG, "vram_mib": 97887}, "small": {"uuid": SMALL, "vram_mib": 32607}},
        anvil_engines={
            "llama_cpp": {
                "image": "anvil.local/llama-server:1",
                "volumes": [f"{models}:/models:ro"],
                "args": ["-np", "1", "-t", "1"],
                "ready_timeout": 30,
            }
        },
        anvil_serves={name: {**defaults, **serve} for name, serve in serves.items()},
    )


HEAVY = {"model": "/models/heavy.gguf", "port": 30002, "gpus": ["big"], "vram_mib": 60000}
FAST = {"model": "/models/fast.gguf", "port": 30003, "gpus": ["small"], "vram_mib": 20000}


def test_status_shows_all_running_serves_in_table_json_and_page(
    clean_bed: Bed, models: Path, tmp_path: Path, chromium: str
) -> None:
    old = {"model": "/models/fast.gguf", "port": 30005}
    succeed("site", make_inventory(tmp_path, models, {"heavy": HEAVY, "fast": FAST, "old": old}))
    words = ["-e", "model=/models/fast.gguf", "-e", "name=trial", "-e", "engine=llama_cpp", "-e", "gpu=big"]
    inventory = make_inventory(tmp_path, models, {"heavy": {**HEAVY, "args": ["-c", "256"]}, "fast": FAST})
    succeed("experiment", inventory, *words, "-e", "port=30010", "-e", "vram_mib=9000", "-e", "ttl=2h")
    clean_bed.docker("rm", "--force", "anvil-fast")
    clean_bed.write_gpus([replace(RTX_5090, memory_used=24000), RTX_PRO_6000])
    stranger = ["--detach", "--name", "stranger", "--gpus", f'"device={SMALL}"', "--publish", "127.0.0.1:30003:1"]
    clean_bed.docker("run", *stranger, "--entrypoint", "sleep", "anvil.local/router:0.13.2", "600")

    spoken = succeed("logs", inventory, "-e", "experiment=trial", "-e", "tail=2")
    assert spoken.count("  anvil-experiment-trial ! ") == 2 and "heavy" not in spoken.split("PLAY RECAP")[0]
    before = clean_bed.started()
    page, data = tmp_path / "status.html", tmp_path / "status.json"
    printed = succeed("status", inventory, "-e", f"html={page}", "-e", f"json={data}")
    assert "changed=0" in printed and clean_bed.started() == before
    heavy = next(line for line in printed.splitlines() if line.startswith("  heavy ")).split()
    assert heavy[1] == "ready" and heavy[-1] == "0" and {"command", "30002", "/models/heavy.gguf", "big"} <= set(heavy)
    assert next(line for line in printed.splitlines() if line.startswith("  fast ")).split()[1] == "absent"
    for words_ in (
        "GPU small (NVIDIA GeForce RTX 5090): 23.4 of 31.8 GiB used, held by stranger (squatter, need unknown)",
        "held by heavy (serve, 58.6 GiB claimed), trial (experiment, 8.8 GiB claimed)",
        "trial: expires in 1 h 5",
        "fast: squatter: by container stranger (no compose project, running)",
        "squatter: container stranger uses a GPU and is not managed; "
        "to remove it: ansible-playbook playbooks/retire.yml -e containers=stranger -e confirm=true",
        "orphan: container anvil-old",
    ):
        assert words_ in printed, printed

    (told,) = json.loads(data.read_text())
    rows = {row["serve"]: row for row in told["rows"]}
    assert (rows["heavy"]["drift"], rows["trial"]["kind"], rows["trial"]["state"]) == ("command", "experiment", "ready")
    assert [[piece["name"] for piece in card["pieces"]] for card in told["cards"]] == [["stranger"], ["heavy", "trial"]]

    dom = browse(chromium, page, "--dump-dom")
    seen = Reader()
    seen.feed(dom)
    assert seen.rows == {"heavy", "fast", "trial"} and seen.outside == []
    assert [label.split(";")[0] for label in seen.bars] == ["23.4 of 31.8 GiB used", "0.0 of 95.6 GiB used"]
    shots = REPO / "tests" / "output"
    shots.mkdir(parents=True, exist_ok=True)
    for name, more in (("light", []), ("dark", ["--blink-settings=preferredColorScheme=0"])):
        shot = shots / f"status-{name}.png"
        shot.unlink(missing_ok=True)
        browse(chromium, page, f"--screenshot={shot}", *more)
        assert shot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and shot.stat().st_size > 20000
    keep_for_docs(shots / "status-light.png", "status.png")


class Reader(html.parser.HTMLParser):
    """The content of a page: the serves of its rows, the labels of its bars, and the URLs that it would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: set[str] = set()
        self.bars: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "tr" and "data-serve" in found:
            self.rows.add(str(found["data-serve"]))
        if found.get("role") == "img":
            self.bars.append(str(found["aria-label"]))
        if tag in ("script", "link", "img", "iframe") or "src" in found or "href" in found:
            self.outside.append(tag)


def test_logs_show_both_streams_without_secrets(clean_bed: Bed, models: Path, tmp_path: Path) -> None:
    hidden = tmp_path / "secret"
    hidden.write_text("a-logged-s3cret")
    talk = ["/bin/sh", "-c", 'echo said $HIDDEN; echo cried $HIDDEN >&2; exec llama-server "$@"', "x"]
    inventory = make_inventory(
        tmp_path, models, {"heavy": {**HEAVY, "entrypoint": talk, "secrets": {"HIDDEN": "key"}}, "fast": FAST}
    )
    whole = json.loads(inventory.read_text())
    whole["all"]["hosts"]["box"]["anvil_secrets"] = {"key": f"{{{{ lookup('ansible.builtin.file', '{hidden}') }}}}"}
    inventory.write_text(json.dumps(whole))
    succeed("site", inventory)
    printed = succeed("logs", inventory, "-e", "tail=500")
    assert "  heavy | said <hidden>" in printed and "  heavy ! cried <hidden>" in printed and "  fast  " in printed
    assert "a-logged-s3cret" not in printed
    one = succeed("logs", inventory, "-e", "serves=heavy", "-e", "tail=3", "-e", "since=1h")
    assert len([line for line in one.splitlines() if line.startswith("  heavy ")]) == 3 and "  fast" not in one
    time.sleep(1)
    assert "said <hidden>" not in succeed("logs", inventory, "-e", "tail=500", "-e", "since=1s")
    wrong = play("logs", inventory, "-e", "since=yesterday")
    assert wrong.returncode and "is not a time span" in wrong.stdout + wrong.stderr


def test_a_stopped_engine_is_reported_and_the_exit_code_is_not_zero(clean_bed: Bed, models: Path, tmp_path: Path) -> None:
    inventory = make_inventory(tmp_path, models, {"heavy": HEAVY})
    clean_bed.stop_engine()
    silent = play("status", inventory)
    clean_bed.start_engine()
    assert silent.returncode and "Docker Engine does not answer" in silent.stdout


def test_an_unreachable_host_does_not_hide_the_others(clean_bed: Bed, models: Path, tmp_path: Path) -> None:
    inventory = make_inventory(tmp_path, models, {"heavy": HEAVY})
    whole = json.loads(inventory.read_text())
    away = {**whole["all"]["hosts"]["box"], "ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
    whole["all"]["hosts"] = {"away": away, **whole["all"]["hosts"]}
    inventory.write_text(json.dumps(whole))
    done = play("status", inventory)
    assert done.returncode and "\naway\n" in done.stdout and "\nbox\n" in done.stdout, done.stdout
    assert "absent" in done.stdout[done.stdout.index("\nbox\n") :]
