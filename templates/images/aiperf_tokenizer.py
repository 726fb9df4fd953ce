# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the tokenizer that aiperf measures its prompts with: ``python3 aiperf_tokenizer.py FOLDER``.

aiperf would load one from a model hub. This one is trained on the text that aiperf takes its prompts from, so an image with it
needs no network. Tokens in results are those that the servers count.
"""

import pathlib
import sys

import aiperf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END = "<|end|>"
text = pathlib.Path(aiperf.__file__).parent / "dataset/generator/assets/shakespeare.txt"
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
tokenizer.train([str(text)], trainers.BpeTrainer(vocab_size=16384, initial_alphabet=alphabet, special_tokens=[END]))
PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END).save_pretrained(sys.argv[1])
