"""place.yml with `-e live=true`: the memory that the driver of a real host reports, and a host that does not answer."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from bed import RTX_5090, RTX_PRO_6000, Bed
from drive import play, succeed

NEW = (
    "{x: {engine: llama_cpp, image: a/b:1, model: /models/x.gguf, volumes: ['models:/models:ro'], port: 30040, vram_mib: 20000}}"
)


def test_the_free_memory_of_the_cards_counts_and_a_host_that_does_not_answer_is_left_out(clean_bed: Bed, tmp_path: Path) -> None:
    clean_bed.write_gpus([replace(RTX_5090, memory_used=24000), RTX_PRO_6000])
    cards = {"small": {"uuid": RTX_5090.uuid}, "big": {"uuid": RTX_PRO_6000.uuid, "reserve_mib": 2000}}
    memory = {"small": 32607, "big": 97887}
    written = {alias: {**card, "vram_mib": memory[alias], "compute_capability": "12.0"} for alias, card in cards.items()}
    box = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    gone = {"ansible_host": "127.0.0.1", "ansible_port": 9, "ansible_ssh_common_args": "-o BatchMode=yes", "anvil_gpus": written}
    (tmp_path / "new.yml").write_text(NEW)
    inventory = tmp_path / "inventory.json"

    def write(gpus: dict[str, dict[str, object]]) -> None:
        inventory.write_text(json.dumps({"all": {"hosts": {"box": {**box, "anvil_gpus": gpus}, "gone": gone}}}))

    write(written)
    offline = succeed("place", inventory, "-e", "serves=new.yml", "-l", "box")
    assert "serve x: box on small" in offline
    write(cards)
    live = play("place", inventory, "-e", "serves=new.yml", "-e", "live=true", "-e", "output=placed")
    printed = live.stdout + live.stderr
    assert "serve x: box on big" in printed
    assert (
        "big: serve x 20000 of 97887 - 2000 reserve = 95887 MiB; 75887 MiB stay free, the driver reports 97883 MiB free now"
        in printed
    )
    assert "gone is left out: Task failed: Failed to connect to the host" in printed
    assert live.returncode == 0
    assert (tmp_path / "placed/host_vars/box/placed-x.yml").exists()
