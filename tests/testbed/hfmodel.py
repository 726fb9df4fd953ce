"""Generate a tiny llama as a Hugging Face model folder. It answers every prompt with one fixed phrase.

    hfmodel.py FOLDER --phrase "the answer" [--context 2048] [--scores]

With --scores it has a head of one label in place of the vocabulary's: vLLM serves such a class as a reranker.
The weights hold the same table as those of bootstrap/tinymodel.py, which explains it; only the file format differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bootstrap"))

from tinymodel import CONTROL_TOKENS, EOS, FIRST_PIECE, PLAIN_TEMPLATE, SPACE, bigram_tables, split_phrase

HEADS, HEAD_SIZE = 1, 32  # vLLM's attention on CPUs accepts no smaller size
FEED_FORWARD = 32


def tokenizer(pieces: list[str]) -> dict[str, Any]:
    """A vocabulary of bytes and the pieces of the phrase. Without merges a prompt remains bytes; only answers contain pieces."""
    words = [*(token.decode() for token in CONTROL_TOKENS), *(f"<0x{b:02X}>" for b in range(256)), *pieces]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": n, "content": words[n], **plain} for n in range(len(CONTROL_TOKENS))],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": words[0],
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {word: n for n, word in enumerate(words)},
            "merges": [],
        },
    }


def write_model(folder: Path, phrase: str, context: int = 2048, scores: bool = False) -> None:
    """Write the folder. The same arguments give the same bytes."""
    pieces = split_phrase(phrase)
    embedding, output = bigram_tables(pieces, tools=False)
    width, across = embedding.shape[1], HEADS * HEAD_SIZE
    config = {
        "architectures": ["LlamaForSequenceClassification" if scores else "LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": FIRST_PIECE + len(pieces),
        "hidden_size": width,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": HEAD_SIZE,
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "bos_token_id": 1,
        "eos_token_id": EOS,
    }
    if scores:
        config |= {"num_labels": 1, "id2label": {"0": "relevance"}, "pad_token_id": 0}
    shapes = {
        "self_attn.q_proj": (across, width),
        "self_attn.k_proj": (across, width),
        "self_attn.v_proj": (across, width),
        "self_attn.o_proj": (width, across),
        "mlp.gate_proj": (FEED_FORWARD, width),
        "mlp.up_proj": (FEED_FORWARD, width),
        "mlp.down_proj": (width, FEED_FORWARD),
    }
    ones = np.ones(width, np.float32)
    tensors = {
        "model.embed_tokens": embedding,
        **({"score": output[:1]} if scores else {"lm_head": output}),
        "model.norm": ones,
        "model.layers.0.input_layernorm": ones,
        "model.layers.0.post_attention_layernorm": ones,
        **{f"model.layers.0.{name}": np.zeros(shape, np.float32) for name, shape in shapes.items()},
    }
    words = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "chat_template": PLAIN_TEMPLATE,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "tokenizer_config.json").write_text(json.dumps(words, indent=1))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(pieces), indent=1))
    halves = {f"{name}.weight": values.astype(np.float16) for name, values in tensors.items()}
    save_file(halves, folder / "model.safetensors", {"format": "pt"})
    for path in (folder, *folder.iterdir()):  # a container with another uid reads it
        path.chmod(0o755 if path.is_dir() else 0o644)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--phrase", required=True, help="the answer to every prompt")
    parser.add_argument("--context", type=int, default=2048, help="context length in tokens")
    parser.add_argument("--scores", action="store_true", help="a reranker")
    arguments = parser.parse_args()
    write_model(arguments.folder, arguments.phrase, arguments.context, arguments.scores)


if __name__ == "__main__":
    main()
