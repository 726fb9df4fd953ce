"""The tiny model that `make vllm` serves: its files are read as an engine reads them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_folder import read_model
from hfmodel import EOS, write_model
from safetensors.numpy import load_file

PHRASE = "the tiny model answers from a real vLLM"


def test_the_model_is_a_llama_that_answers_with_its_phrase(tmp_path: Path) -> None:
    write_model(tmp_path / "model", PHRASE, 2048)
    facts = read_model(str(tmp_path / "model"))
    assert (facts.architecture, facts.quantisation, facts.context_length, facts.chat_template) == (
        "LlamaForCausalLM",
        "f16",
        2048,
        True,
    )
    weights = load_file(tmp_path / "model" / "model.safetensors")
    ids = json.loads((tmp_path / "model" / "tokenizer.json").read_text())["model"]["vocab"]
    words = {number: word for word, number in ids.items()}
    token, answer = ids["<0x3A>"], ""
    while token != EOS:  # attention and feed-forward are zero: only the last token decides
        state = weights["model.embed_tokens.weight"][token].astype(np.float32)
        scaled = state / np.sqrt(np.mean(state**2))
        token = int(np.argmax(weights["lm_head.weight"].astype(np.float32) @ scaled))
        answer += "" if token == EOS else words[token]
    assert answer.replace("\u2581", " ") == PHRASE
    assert len(words) == facts.vocabulary == len(weights["lm_head.weight"])


def test_the_same_phrase_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_model(tmp_path / name, PHRASE, 1024)
    one, other = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "other"))
    assert one == other and len(one) == 4
