"""Generate a tiny Whisper as a Hugging Face model folder. It writes down one fixed phrase, whatever it hears.

    whispermodel.py FOLDER --phrase "the transcript"

Nothing is downloaded and nothing is random. Each position of the decoder holds the token that follows it: the prompt is four
tokens (start, language, task, no time stamps), so the phrase begins at the fourth. All layers are zero. A token is one character.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

START, LANGUAGE, END = "<|startoftranscript|>", "<|en|>", "<|endoftext|>"
SPECIAL = (END, START, LANGUAGE, "<|translate|>", "<|transcribe|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")
PROMPT = 4
HEAD_SIZE = 32  # vLLM's attention on CPUs accepts no smaller size
POSITIONS = 64
SECONDS = 2  # of sound in one window
FRAMES = SECONDS * 100
MELS = 80
SPACE = "\u0120"  # how a vocabulary of bytes writes a space
STRENGTH = 10.0  # of a position, beside 1 for the token that stands there


def write_tokenizer(folder: Path, vocabulary: list[str]) -> None:
    """A vocabulary of characters and Whisper's own tokens."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    ids = {word: n for n, word in enumerate(vocabulary)}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": ids[word], "content": word, **plain} for word in SPECIAL],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": ids, "merges": []},
    }
    words = {
        "tokenizer_class": "WhisperTokenizer",
        "processor_class": "WhisperProcessor",
        "unk_token": END,
        "bos_token": END,
        "eos_token": END,
        "pad_token": END,
        "model_max_length": POSITIONS,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, indent=1))
    (folder / "tokenizer_config.json").write_text(json.dumps(words, indent=1))
    (folder / "vocab.json").write_text(json.dumps(ids, indent=1))
    (folder / "merges.txt").write_text("#version: 0.2\n")


def build_layers(width: int) -> dict[str, Any]:
    """One layer of the encoder and one of the decoder that add nothing, and the convolutions."""
    attention = {f"{part}_proj.weight": (width, width) for part in ("q", "k", "v", "out")}
    attention |= {f"{part}_proj.bias": (width,) for part in ("q", "v", "out")}
    layer = {f"self_attn.{name}": shape for name, shape in attention.items()}
    layer |= {"fc1.weight": (width, width), "fc1.bias": (width,), "fc2.weight": (width, width), "fc2.bias": (width,)}
    crossed = {f"encoder_attn.{name}": shape for name, shape in attention.items()}
    shapes = {
        "encoder.conv1.weight": (width, MELS, 3),
        "encoder.conv1.bias": (width,),
        "encoder.conv2.weight": (width, width, 3),
        "encoder.conv2.bias": (width,),
        "encoder.embed_positions.weight": (FRAMES // 2, width),
        **{f"encoder.layers.0.{name}": shape for name, shape in layer.items()},
        **{f"decoder.layers.0.{name}": shape for name, shape in (layer | crossed).items()},
    }
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    norms = ["encoder.layer_norm", "decoder.layer_norm", "decoder.layers.0.encoder_attn_layer_norm"]
    norms += [
        f"{side}.layers.0.{name}" for side in ("encoder", "decoder") for name in ("self_attn_layer_norm", "final_layer_norm")
    ]
    for name in norms:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = np.ones(width, np.float32), np.zeros(width, np.float32)
    return tensors


def write_model(folder: Path, phrase: str) -> None:
    """Write the folder. The same phrase gives the same bytes."""
    spoken = phrase.replace(" ", SPACE)
    vocabulary = [*SPECIAL, *sorted(set(spoken))]
    heads = -(-len(vocabulary) // HEAD_SIZE)
    width = heads * HEAD_SIZE
    embedding = np.eye(len(vocabulary), width, dtype=np.float32)
    follows = [LANGUAGE, *[END] * (PROMPT - 2), *spoken]
    follows += [END] * (POSITIONS - len(follows))
    positions = np.stack([STRENGTH * embedding[vocabulary.index(word)] for word in follows])
    config = {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "is_encoder_decoder": True,
        "vocab_size": len(vocabulary),
        "d_model": width,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "num_hidden_layers": 1,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": width,
        "decoder_ffn_dim": width,
        "num_mel_bins": MELS,
        "max_source_positions": FRAMES // 2,
        "max_target_positions": POSITIONS,
        "max_length": POSITIONS,
        "decoder_start_token_id": vocabulary.index(START),
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "torch_dtype": "float16",
    }
    extractor = {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": MELS,
        "sampling_rate": 16000,
        "hop_length": 160,
        "n_fft": 400,
        "chunk_length": SECONDS,
        "n_samples": SECONDS * 16000,
        "nb_max_frames": FRAMES,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }
    tensors = build_layers(width) | {
        "decoder.embed_tokens.weight": embedding,
        "decoder.embed_positions.weight": positions,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor, indent=1))
    write_tokenizer(folder, vocabulary)
    halves = {f"model.{name}": values.astype(np.float16) for name, values in tensors.items()}
    save_file(halves, folder / "model.safetensors", {"format": "pt"})
    for path in (folder, *folder.iterdir()):  # a container with another uid reads it
        path.chmod(0o755 if path.is_dir() else 0o644)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--phrase", required=True, help="what it writes down")
    arguments = parser.parse_args()
    write_model(arguments.folder, arguments.phrase)


if __name__ == "__main__":
    main()
