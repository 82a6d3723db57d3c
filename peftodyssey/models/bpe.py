"""A byte-level BPE tokenizer trained on a text, saved as transformers loads it. Called by `jobs.pretrain`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

END_OF_TEXT = "<|endoftext|>"  # id 0; also the beginning of every document, and padding
LEAST_VOCABULARY = 257  # every byte, and the end of text


def train_bpe(texts: Iterable[str], vocabulary: int, folder: Path, positions: int) -> int:
    """Writes tokenizer.json and tokenizer_config.json to `folder`; returns the tokens it has, `vocabulary` or fewer.

    Fewer come out of a text that has too few different pieces to merge.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    assert vocabulary >= LEAST_VOCABULARY, vocabulary
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=False), encoding="utf-8")
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": positions}
    told |= dict.fromkeys(("bos_token", "eos_token", "pad_token"), END_OF_TEXT)
    (folder / "tokenizer_config.json").write_text(json.dumps(told, indent=2), encoding="utf-8")
    return tokenizer.get_vocab_size(with_added_tokens=True)
