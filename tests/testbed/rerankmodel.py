"""Generate a tiny reranker as a GGUF file: the architecture of Qwen3 rerankers, with a head of one score.

    rerankmodel.py FILE

Its vocabulary is that of bootstrap/tinymodel.py. Attention and feed-forward are zero, so a score depends on the last token alone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import gguf
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bootstrap"))

from tinymodel import CONTROL_TOKENS, EOS, bigram_tables, split_phrase

HEADS, HEAD_SIZE, FEED_FORWARD = 1, 32, 32


def write_model(path: Path) -> None:
    """Write the file. It has the same bytes each time."""
    pieces = split_phrase("relevant or not relevant")
    tokens = [*CONTROL_TOKENS, *(f"<0x{b:02X}>".encode() for b in range(256)), *(word.encode() for word in pieces)]
    kind = gguf.TokenType
    embedding, output = bigram_tables(pieces, tools=False)
    width, across = embedding.shape[1], HEADS * HEAD_SIZE

    w = gguf.GGUFWriter(str(path), "qwen3")
    w.add_name("tiny reranker")
    w.add_context_length(2048)
    w.add_embedding_length(width)
    w.add_block_count(1)
    w.add_feed_forward_length(FEED_FORWARD)
    w.add_head_count(HEADS)
    w.add_head_count_kv(HEADS)
    w.add_key_length(HEAD_SIZE)
    w.add_value_length(HEAD_SIZE)
    w.add_rope_dimension_count(HEAD_SIZE)
    w.add_layer_norm_rms_eps(1e-6)
    w.add_vocab_size(len(tokens))
    w.add_file_type(gguf.LlamaFileType.ALL_F32)
    w.add_pooling_type(gguf.PoolingType.RANK)
    w.add_classifier_output_labels(["relevance"])
    w.add_tokenizer_model("llama")
    w.add_token_list(tokens)
    w.add_token_scores([0.0] * len(tokens))
    w.add_token_types([kind.UNKNOWN, kind.CONTROL, kind.CONTROL, *[kind.BYTE] * 256, *[kind.NORMAL] * len(pieces)])
    w.add_bos_token_id(1)
    w.add_eos_token_id(EOS)
    w.add_sep_token_id(EOS)
    w.add_unk_token_id(0)
    w.add_add_bos_token(True)
    w.add_add_space_prefix(False)

    shapes = {
        "blk.0.attn_q": (across, width),
        "blk.0.attn_k": (across, width),
        "blk.0.attn_v": (across, width),
        "blk.0.attn_output": (width, across),
        "blk.0.ffn_gate": (FEED_FORWARD, width),
        "blk.0.ffn_up": (FEED_FORWARD, width),
        "blk.0.ffn_down": (width, FEED_FORWARD),
    }
    tensors = {
        "token_embd": embedding,
        "output": output,
        "output_norm": np.ones(width, np.float32),
        "cls.output": np.linspace(-1, 1, width, dtype=np.float32).reshape(1, width),
        "blk.0.attn_norm": np.ones(width, np.float32),
        "blk.0.ffn_norm": np.ones(width, np.float32),
        "blk.0.attn_q_norm": np.ones(HEAD_SIZE, np.float32),
        "blk.0.attn_k_norm": np.ones(HEAD_SIZE, np.float32),
        **{name: np.zeros(shape, np.float32) for name, shape in shapes.items()},
    }
    for name, values in tensors.items():
        w.add_tensor(f"{name}.weight", values)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    path.chmod(0o644)  # a container with another uid reads it


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    write_model(parser.parse_args().file)
