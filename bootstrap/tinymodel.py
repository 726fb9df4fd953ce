"""Generate a tiny llama-architecture GGUF that answers every prompt with one fixed phrase.

Nothing is downloaded and nothing is random. The weights hold a table of which token follows which. Attention and
feed-forward are zero, so the next token depends on the last token alone: a piece of the phrase is followed by the next
piece, the last piece by the end of text, and any other token by the beginning of the phrase. The margins are so wide that
sampling at temperature 1 gives the same text as greedy decoding. Under a grammar (JSON schema) that forbids the phrase,
closing characters have the next highest logits, so constrained answers end too.

With --tools the chat template supports tools, as that of most instruct models does. The model calls the first tool that
the request offers, until the conversation holds a tool result. llama-server's grammar produces the arguments.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import numpy as np

CONTROL_TOKENS = (b"<unk>", b"<s>", b"</s>")
EOS = 2
FIRST_BYTE = len(CONTROL_TOKENS)
FIRST_PIECE = FIRST_BYTE + 256
SPACE = "\u2581"  # how a sentencepiece vocabulary writes a space

# Logits. Every other token has 0; there are about 270 tokens, so at e**12 the others together get 0.2 %.
NEVER = -40.0  # control tokens
NEXT_PIECE = 24.0
END_OF_TEXT = 30.0  # after the phrase
CLOSING_QUOTE = 18.0  # after the phrase, if the text may not end there: inside a JSON string
CLOSERS = {"}": 14.0, "]": 14.0, '"': 13.0, ",": 12.0, ":": 12.0}  # if a grammar forbids the phrase
CLOSING_CALL = 12.5  # of "<": ends the call after the first one if a grammar allows a list of calls

PLAIN_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
CALL = "<tool_call>\n"
CALL_MARK = "|"  # ends a prompt that offers tools; the model answers it with a call
TOOLS_TEMPLATE = (
    "{% if tools %}system: tools: {{ tools | tojson }}\n{% endif %}"
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] or '' }}{% for c in m['tool_calls'] or [] %}" + CALL + "{"
    "\"name\": {{ c['function']['name'] | tojson }}, \"arguments\": {{ c['function']['arguments'] | tojson }}}\n</tool_call>"
    "{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant{% if tools and messages[-1]['role'] != 'tool' %}" + CALL_MARK + "{% else %}:"
    "{% endif %}{% endif %}"
)


def split_phrase(phrase: str) -> list[str]:
    """Cut a phrase into distinct pieces. Each piece is one token, and its position in the phrase must be unambiguous.

    Every piece has at least three characters, so that no prompt is tokenized into one: the tokenizer starts from single
    characters and merges only pairs that are in the vocabulary, so a prompt remains bytes.
    """
    pieces: list[str] = []
    piece = ""
    for i, word in enumerate(phrase.split()):
        piece += word if i == 0 else SPACE + word
        if len(piece) >= 3 and piece not in pieces:
            pieces.append(piece)
            piece = ""
    if piece:
        pieces[-1:] = ["".join(pieces[-1:]) + piece]
    if not pieces or len(pieces[0]) < 3:
        raise SystemExit("tinymodel.py: the phrase needs at least three characters")
    return pieces


def bigram_tables(pieces: list[str], tools: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the embedding and the output matrix: one row per token, one column per piece plus one for every other token.

    tools: add two columns, for the mark that starts a call and for the character that ends one, and one token, the
    beginning of a call.
    """
    vocabulary = FIRST_PIECE + len(pieces) + tools
    width = -(-(len(pieces) + 1 + 2 * tools) // 32) * 32

    # Row t of the embedding is the unit vector of the state that token t leads to; RMS norm scales it to sqrt(width).
    state = np.zeros(vocabulary, dtype=int)
    state[FIRST_PIECE : FIRST_PIECE + len(pieces)] = np.arange(1, len(pieces) + 1)
    marked, called = len(pieces) + 1, len(pieces) + 2
    if tools:
        state[[FIRST_BYTE + ord(CALL_MARK), FIRST_BYTE + ord(">")]] = marked, called
    embedding = np.zeros((vocabulary, width), np.float32)
    embedding[np.arange(vocabulary), state] = 1.0

    output = np.zeros((vocabulary, width), np.float32)
    output[:FIRST_BYTE, :] = NEVER
    for character, logit in CLOSERS.items():
        output[FIRST_BYTE + ord(character), :] = logit
    for s in range(len(pieces)):
        output[FIRST_PIECE + s, s] = NEXT_PIECE
    output[FIRST_BYTE + ord('"'), len(pieces)] = CLOSING_QUOTE
    output[EOS, len(pieces)] = END_OF_TEXT
    if tools:
        output[FIRST_BYTE + ord("<"), :] = CLOSING_CALL
        output[FIRST_PIECE + len(pieces), marked] = NEXT_PIECE
        output[EOS, called] = END_OF_TEXT
    return embedding, output / np.float32(np.sqrt(width))


def write_model(path: Path, name: str, phrase: str, context: int = 8192, tools: bool = False) -> None:
    """Write the model. The same arguments give the same bytes."""
    pieces = split_phrase(phrase)
    words = [*pieces, CALL] if tools else pieces
    tokens = [*CONTROL_TOKENS, *(f"<0x{b:02X}>".encode() for b in range(256)), *(word.encode() for word in words)]
    kind = gguf.TokenType
    types = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL, *[kind.BYTE] * 256, *[kind.NORMAL] * len(words)]
    embedding, output = bigram_tables(pieces, tools)
    width, heads, feed_forward = embedding.shape[1], 2, 32

    w = gguf.GGUFWriter(str(path), "llama")
    w.add_name(name)
    w.add_context_length(context)
    w.add_embedding_length(width)
    w.add_block_count(1)
    w.add_feed_forward_length(feed_forward)
    w.add_head_count(heads)
    w.add_head_count_kv(heads)
    w.add_rope_dimension_count(width // heads)
    w.add_layer_norm_rms_eps(1e-6)
    w.add_vocab_size(len(tokens))
    w.add_file_type(gguf.LlamaFileType.ALL_F32)
    w.add_tokenizer_model("llama")
    w.add_token_list(tokens)
    w.add_token_scores([0.0] * len(tokens))
    w.add_token_types(types)
    w.add_bos_token_id(1)
    w.add_eos_token_id(EOS)
    w.add_unk_token_id(0)
    w.add_add_bos_token(True)
    w.add_add_space_prefix(False)
    w.add_chat_template(TOOLS_TEMPLATE if tools else PLAIN_TEMPLATE)

    ones = np.ones(width, np.float32)
    square = np.zeros((width, width), np.float32)
    tensors = {
        "token_embd": embedding,
        "output": output,
        "output_norm": ones,
        "blk.0.attn_norm": ones,
        "blk.0.ffn_norm": ones,
        **{f"blk.0.attn_{part}": square for part in ("q", "k", "v", "output")},
        "blk.0.ffn_gate": np.zeros((feed_forward, width), np.float32),
        "blk.0.ffn_up": np.zeros((feed_forward, width), np.float32),
        "blk.0.ffn_down": np.zeros((width, feed_forward), np.float32),
    }
    for tensor, values in tensors.items():
        w.add_tensor(f"{tensor}.weight", values)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--phrase", required=True, help="the answer to every prompt")
    parser.add_argument("--name", required=True, help="general.name of the model")
    parser.add_argument("--context", type=int, default=8192, help="context length in tokens")
    parser.add_argument("--tools", action="store_true", help="support tools: call the first tool of a request")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = arguments.out.with_suffix(".part")
    write_model(unfinished, arguments.name, arguments.phrase, arguments.context, arguments.tools)
    unfinished.chmod(0o644)  # a container with another uid reads it
    unfinished.replace(arguments.out)


if __name__ == "__main__":
    main()
