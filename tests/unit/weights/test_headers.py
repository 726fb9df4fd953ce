"""The header readers, compared with the gguf and safetensors libraries, and with files that are not what they claim."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import gguf
import pytest
import safetensors.numpy
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.weights.gguf_header import FILE_TYPES, GGML_TYPES, read_gguf
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_folder import read_model
from ansible_collections.anvil.serving.plugins.module_utils.weights.safetensors_header import read_safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from longrun import examples
from weightfiles import write_gguf, write_safetensors


def test_the_type_tables_match_the_library() -> None:
    ours = {number: (block, size) for number, (_name, block, size) in GGML_TYPES.items()}
    assert ours == {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert {n: name for n, (name, _b, _s) in GGML_TYPES.items()} == {int(k): k.name for k in gguf.GGML_QUANT_SIZES}
    theirs = {int(kind): kind.name.replace("MOSTLY_", "").replace("ALL_", "") for kind in gguf.LlamaFileType}
    assert theirs == {**FILE_TYPES, 1024: "GUESSED"}


@pytest.mark.parametrize("quant", [None, gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.MXFP4])
def test_a_gguf_header_is_read_as_the_library_reads_it(tmp_path: Path, quant: gguf.GGMLQuantizationType | None) -> None:
    path = write_gguf(tmp_path / "m.gguf", quant=quant, name="nümber", chat_template="{{ x }}", expert_count=3)
    ours, theirs = read_gguf(str(path)), gguf.GGUFReader(str(path))
    for key, field in theirs.fields.items():
        if key.startswith("GGUF."):
            continue
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            assert ours.lengths[key] == len(field.data)
        else:
            assert ours.metadata[key] == field.contents(), key
    assert [(t.name, t.dtype, list(t.shape), t.size) for t in ours.tensors] == [
        (t.name, t.tensor_type.name, [int(n) for n in t.shape], int(t.n_bytes)) for t in theirs.tensors
    ]


def test_a_safetensors_header_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "m.safetensors")
    with safetensors.safe_open(str(path), "numpy") as theirs:
        told = {name: (theirs.get_slice(name).get_dtype(), tuple(theirs.get_slice(name).get_shape())) for name in theirs.keys()}  # noqa: SIM118
    assert {t.name: (t.dtype, t.shape) for t in read_safetensors(str(path))} == told


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "does not begin with GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "does not begin with GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 1), "bytes are missing"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "bytes are missing"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**50) + b"x" * 64, "bytes are missing"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", 77) + b"x" * 64, "unknown type 77"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 8, 2**40) + b"x" * 9, "bytes are missing"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 9, 1) + b"x" * 64, "unknown type 9"),
    ],
)
def test_a_file_that_is_not_a_gguf_is_refused_with_the_reason(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(AnvilError, match=why) as caught:
        read_gguf(str(path))
    assert "Traceback" not in caught.value.as_text()
    assert caught.value.problems[0].hint


def test_a_truncated_download_is_found_without_reading_the_tensors(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size - 40000)
    with pytest.raises(AnvilError, match="its tensors need"):
        read_gguf(str(path))


def broken_safetensors(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        (2**40).to_bytes(8, "little") + b"{}",
        broken_safetensors(b"[]"),
        broken_safetensors(b"{" * 5000),
        broken_safetensors(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', b"1234"),
        broken_safetensors(b'{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 4]}}', b"1234"),
        broken_safetensors(b'{"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}', b"1234"),
        broken_safetensors(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', b"123"),
        broken_safetensors(b'{"a": {"dtype": "F32", "shape": 1}}'),
    ],
)
def test_a_file_that_is_not_a_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(AnvilError, match="not a usable safetensors file"):
        read_safetensors(str(path))


@pytest.mark.slow
@settings(max_examples=examples(150, 5000), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_bytes_in_a_header_never_give_a_traceback(tmp_path: Path, data: st.DataObject) -> None:
    source = tmp_path / "good.gguf"
    if not source.exists():
        write_gguf(source, name="x", chat_template="y")
    content = bytearray(source.read_bytes()[:2000])
    for _change in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    hurt = tmp_path / "hurt.gguf"
    hurt.write_bytes(bytes(content) + source.read_bytes()[2000:])
    try:
        read_model(str(hurt))
    except AnvilError as exc:
        assert exc.problems[0].where


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**40) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_KEYS = [
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_size",
    "num_key_value_heads",
    "head_dim",
    "layer_types",
    "sliding_window",
    "text_config",
    "quantization_config",
    "kv_lora_rank",
    "qk_rope_head_dim",
    "architectures",
    "vocab_size",
    "full_attention_interval",
    "pretrained_config",
    "build_config",
    "max_position_embeddings",
    "_name_or_path",
]


@pytest.mark.slow
@settings(max_examples=examples(150, 5000), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=st.dictionaries(st.sampled_from(_KEYS), _JSON | st.integers(1, 64)))
def test_an_arbitrary_config_never_gives_a_traceback(tmp_path: Path, config: dict[str, object]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    if not (tmp_path / "model.safetensors").exists():
        write_safetensors(tmp_path / "model.safetensors")
    try:
        read_model(str(tmp_path)).as_dict()
    except AnvilError as exc:
        assert exc.problems[0].where
