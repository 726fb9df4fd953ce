"""Hostile weights: a verdict within 1 s of processor time and 200 MB of memory, whatever the file claims."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

MIB = 1 << 20
REPO = Path(__file__).resolve().parents[3]
# Reads each model in a process of its own, a fork of one that has imported everything. It prints CPU seconds, the MiB of memory
# beyond what Python itself takes, and the verdict; then how the process ended.
READER = """
import os, resource, signal, sys, time
sys.path.insert(0, sys.argv[1])
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_folder import read_model
import ansible_collections.anvil.serving.plugins.module_utils.weights.gguf_model
import ansible_collections.anvil.serving.plugins.module_utils.weights.hugging_face_model

def judge(path):
    base, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        facts = read_model(path)
        verdict = "read"
    except AnvilError as exc:
        verdict = exc.problems[0].why
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base
    print(time.process_time() - start, memory / 1024, verdict.replace("\\n", " "), flush=True)

for line in sys.stdin:
    child = os.fork()
    if not child:
        signal.alarm(60)
        judge(line.rstrip("\\n"))
        os._exit(0)
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def text(word: bytes) -> bytes:
    return struct.pack("<Q", len(word)) + word


def gguf(values: int, body: bytes, tensors: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, values) + body


def key(name: bytes, kind: int) -> bytes:
    return text(name) + struct.pack("<I", kind)


def strings(name: bytes, count: int, content: bytes) -> bytes:
    return key(name, 9) + struct.pack("<IQ", 8, count) + content


def safetensors(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


ARCHITECTURE = key(b"general.architecture", 8) + text(b"llama")
LOOKS_LIKE_A_KEY = key(b"tokenizer.ggml.merges", 9)
GGUFS: dict[str, Callable[[], bytes]] = {
    "2 million strings, one by one": lambda: gguf(2, ARCHITECTURE + strings(b"a", 2_000_000, bytes(8 * 2_000_000))),
    "more strings than any vocabulary": lambda: gguf(2, ARCHITECTURE + strings(b"a", 4_900_000, bytes(8 * 4_900_000))),
    "a vocabulary whose tokens look like keys": lambda: gguf(
        2, ARCHITECTURE + strings(b"a", 400_000, text(LOOKS_LIKE_A_KEY[:40]) * 400_000)
    ),
    "32,768 tensors": lambda: gguf(1, ARCHITECTURE + (text(b"t") + struct.pack("<IQIQ", 1, 1, 0, 0)) * 32_768, 32_768),
    "more tensors than any model": lambda: gguf(0, (text(b"t") + struct.pack("<IQIQ", 1, 1, 0, 0)) * 32_769, 32_769),
    "32,768 long texts": lambda: gguf(32_768, b"".join(key(b"%06d" % n, 8) + text(b"\xff" * 1180) for n in range(32_768))),
    "a text of 1 MiB, 38 times": lambda: gguf(38, b"".join(key(b"%d" % n, 8) + text(b"\xff" * MIB) for n in range(38))),
    "a text of 2 MiB": lambda: gguf(1, key(b"k", 8) + text(b"x" * 2 * MIB)),
    "numbers of 9,000 layers' worth of arrays": lambda: gguf(
        9_000, b"".join(key(b"%d" % n, 9) + struct.pack("<IQ", 0, 4096) + bytes(4096) for n in range(9_000))
    ),
    "a tensor of 2^63 x 2^63 elements": lambda: gguf(
        1, ARCHITECTURE + text(b"t") + struct.pack("<I8QIQ", 8, *[2**63] * 8, 0, 0) + bytes(64), 1
    ),
    "zero alignment": lambda: gguf(2, ARCHITECTURE + key(b"general.alignment", 4) + struct.pack("<I", 0) + bytes(64)),
    "big-endian": lambda: b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + bytes(64),
    "version 1": lambda: gguf(1, ARCHITECTURE, version=1),
    "no content": lambda: b"",
    "layers beyond counting": lambda: gguf(
        2, ARCHITECTURE + key(b"llama.block_count", 10) + struct.pack("<Q", 2**64 - 1) + bytes(64)
    ),
    "a length that wraps around": lambda: gguf(1, struct.pack("<Q", 2**64 - 1) + bytes(64)),
}
CONFIG = {"architectures": ["LlamaForCausalLM"], "num_attention_heads": 8, "hidden_size": 64, "num_hidden_layers": 2}
CONFIGS: dict[str, Callable[[], bytes]] = {
    "10^30 layers": lambda: json.dumps({**CONFIG, "num_hidden_layers": 10**30}).encode(),
    "a number of a million digits": lambda: b'{"num_hidden_layers": ' + b"1" * MIB + b"}",
    "nested 100,000 deep": lambda: b"[" * 100_000,
    "nested objects": lambda: b'{"a":' * 50_000,
    "10 million values": lambda: b'{"a": [' + b"1," * 10_000_000 + b"1]}",
    "a million values": lambda: b'{"a": [' + b"{}," * 450_000 + b"1]}",
    "NaN everywhere": lambda: json.dumps(dict.fromkeys([*CONFIG, "head_dim", "sliding_window"], float("nan"))).encode(),
    "wrong types": lambda: json.dumps({**CONFIG, "layer_types": {"a": 1}, "architectures": 5, "text_config": [1]}).encode(),
    "half a pair of surrogates": lambda: b'{"architectures": ["\\ud800"], "_name_or_path": "\\udfff"}',
    "one text of 30 MiB": lambda: b'{"a": "' + b"x" * 30 * MIB + b'"}',
    "larger than any config": lambda: b" " * 33 * MIB,
    "no UTF-8": lambda: b'{"a": "\xff"}',
    "no content": lambda: b"",
}
TENSORS: dict[str, Callable[[], bytes]] = {
    "a header of 33 MiB": lambda: safetensors(b" " * 33 * MIB),
    "a million empty tensors": lambda: safetensors(b'{"a":[' + b"{}," * 450_000 + b"1]}"),
    "120,000 tensors": lambda: safetensors(
        json.dumps({str(n): {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(120_000)}).encode()
    ),
    "nested 100,000 deep": lambda: safetensors(b'{"a":' * 100_000),
    "a shape of a thousand dimensions": lambda: safetensors(
        json.dumps({"a": {"dtype": "F32", "shape": [2**60] * 1000, "data_offsets": [0, 4]}}).encode() + b"0000"
    ),
    "no content": lambda: b"",
}


@pytest.fixture(scope="module")
def judge() -> Iterator[Callable[[Path], str]]:
    """Return the verdict on a path, after a check of its time and memory."""
    command = [sys.executable, "-c", READER, str(REPO / ".cache" / "collections")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None and reader.stdout is not None
        asked, answered = reader.stdin, reader.stdout

        def ask(path: Path) -> str:
            asked.write(f"{path}\n")
            asked.flush()
            line = answered.readline()
            assert not line.startswith("ended"), f"it ended without a verdict: {line}"
            assert answered.readline() == "ended 0\n"
            seconds, mib, verdict = line.strip().split(" ", 2)
            assert float(seconds) <= 1.0, line
            assert float(mib) <= 200, line
            return verdict

        yield ask
        asked.close()


Judge = Callable[[Path], str]


@pytest.mark.parametrize("case", GGUFS)
def test_a_hostile_gguf_gets_a_verdict(tmp_path: Path, judge: Judge, case: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(GGUFS[case]())
    assert judge(path)


@pytest.mark.parametrize("case", CONFIGS)
def test_a_hostile_config_gets_a_verdict(tmp_path: Path, judge: Judge, case: str) -> None:
    (tmp_path / "config.json").write_bytes(CONFIGS[case]())
    (tmp_path / "model.safetensors").write_bytes(safetensors(b"{}"))
    assert judge(tmp_path)


@pytest.mark.parametrize("case", TENSORS)
def test_a_hostile_safetensors_file_gets_a_verdict(tmp_path: Path, judge: Judge, case: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").write_bytes(TENSORS[case]())
    assert judge(tmp_path)
