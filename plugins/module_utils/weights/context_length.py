# SPDX-License-Identifier: GPL-3.0-or-later
"""The longest context of a model: what its config says, and what scaled positions (YaRN and others) make of it. Pure.

Source: vLLM's ``_get_and_verify_max_len``.
"""

from __future__ import annotations

from typing import Any, Iterator, Mapping, Optional

# Words of a config for the length: most classes, GPT-2, MPT, ChatGLM, Baichuan, Whisper.
LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length", "max_target_positions")
# Kinds of scaling whose factor does not extend the length: the config's length counts already with them.
NOT_EXTENDING = ("su", "longrope", "llama3", "mrope", "default", "proportional")
MOST_TOKENS = 10**12


def read_length(value: Any) -> Optional[float]:
    """A number of tokens or a factor above 0; None for anything else."""
    sound = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < MOST_TOKENS
    return float(value) if sound else None


def list_scalings(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The scaling of positions in a config; newer configs have one for each type of layer."""
    for name in ("rope_scaling", "rope_parameters"):
        scaling = config.get(name)
        if isinstance(scaling, Mapping):
            inner = [one for one in scaling.values() if isinstance(one, Mapping)]
            yield from inner if inner and not scaling.get("factor") else [scaling]


def is_extending(scaling: Mapping[str, Any]) -> bool:
    """Whether a scaling has a factor by which the length grows."""
    return scaling.get("factor") is not None and str(scaling.get("rope_type", scaling.get("type", ""))) not in NOT_EXTENDING


def scale_length(length: Optional[float], scaling: Mapping[str, Any]) -> Optional[int]:
    """The length with an extending scaling: ``original_max_position_embeddings`` times the factor. None: not understood."""
    factor = read_length(scaling.get("factor"))
    original = read_length(scaling.get("original_max_position_embeddings")) or length
    if factor is None or original is None:
        return None
    return max(int(length or 0), int(original * factor))


def extend_length(length: Optional[int], config: Mapping[str, Any]) -> Optional[int]:
    """The length of a model whose own config scales its positions. What is not understood changes nothing.

    The length in a config of Gemma 3 counts with its scaling already.
    """
    if str(config.get("model_type", "")).startswith("gemma3"):
        return length
    lengths = [scale_length(length, scaling) or 0 for scaling in list_scalings(config) if is_extending(scaling)]
    return max([length, *lengths]) if length else length
