"""Tokens: a tokenizer of `transformers`, found by name or built from the training texts, and the batches it makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lwexp.errors import ConfigError

SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]"}  # ids 0, 1, 2, 3 of the built-in tokenizer


@dataclass(frozen=True)
class Tokens:
    """How texts become token ids: at most `max_length` of them, those of the tokenizer's own template included."""

    tokenizer: Any  # transformers.PreTrainedTokenizerBase
    max_length: int
    label: str  # origin of the tokenizer, for messages

    @cached_property
    def vocabulary(self) -> int:
        """One more than the largest token id."""
        return 1 + int(max(self.tokenizer.get_vocab().values()))

    @property
    def pad_id(self) -> int:
        """The id of padding."""
        return int(self.tokenizer.pad_token_id)

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        """The token ids of each text, int64 [its tokens]."""
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self.max_length, verbose=False)
        return [torch.tensor(ids, dtype=torch.int64) for ids in encoded["input_ids"]]

    def batch(self, ids: Sequence[Tensor]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask`, int64 [texts, tokens of the longest]."""
        side = self.tokenizer.padding_side
        masks = [torch.ones_like(row) for row in ids]
        return {
            "input_ids": torch.nn.utils.rnn.pad_sequence(
                list(ids), batch_first=True, padding_value=self.pad_id, padding_side=side
            ),
            "attention_mask": torch.nn.utils.rnn.pad_sequence(masks, batch_first=True, padding_side=side),
        }

    def example(self) -> dict[str, Tensor]:
        """A batch of two short texts."""
        return self.batch(self.encode(["a short text"] * 2))


def find_tokenizer(name: str, key: str, max_length: int) -> Tokens:
    """The tokenizer of a hub name or a local folder; `key` is the option that names it. Raises `ConfigError`."""
    from transformers import AutoTokenizer

    from lwexp.config.hub import find_on_hub, quiet
    from lwexp.formatting import one_line

    entry = find_on_hub(name, key)
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(entry.name, trust_remote_code=False, **entry.arguments)
    except Exception as error:  # a missing or damaged tokenizer raises many types
        hint = "" if key == "data.tokenizer" else "; data.tokenizer names another"
        raise ConfigError(key, name, f"no tokenizer could be loaded: {one_line(error, kind=True)}{hint}") from error
    if tokenizer.pad_token_id is None:
        instead = tokenizer.eos_token or tokenizer.unk_token
        if instead is None:
            raise ConfigError(key, name, "its tokenizer has no token to pad a batch with")
        tokenizer.pad_token = instead
    return _check_length(Tokens(tokenizer, max_length, name))


def word_tokenizer(texts: Sequence[str], vocabulary: int, max_length: int) -> Tokens:
    """A tokenizer of lower-case words and punctuation: the `vocabulary` most frequent in `texts`, else `[UNK]`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    words: Any = Tokenizer(models.WordLevel(unk_token=SPECIAL["unk"]))
    words.normalizer = normalizers.BertNormalizer(lowercase=True)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer: Any = trainers.WordLevelTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL.values()), show_progress=False
    )
    words.train_from_iterator(texts, trainer)
    ends = [(SPECIAL[name], list(SPECIAL).index(name)) for name in ("cls", "sep")]
    words.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL['cls']} $A {SPECIAL['sep']}", special_tokens=ends
    )
    made: Any = PreTrainedTokenizerFast  # untyped
    tokenizer = made(
        tokenizer_object=words,
        model_max_length=max_length,
        **{f"{name}_token": token for name, token in SPECIAL.items()},
        bos_token=SPECIAL["cls"],  # as in BERT, for models that need a first and a last token
        eos_token=SPECIAL["sep"],
    )
    return _check_length(Tokens(tokenizer, max_length, "the words of the training texts"))


def _check_length(tokens: Tokens) -> Tokens:
    """Raise `ConfigError` for a length that leaves no room for a text."""
    own = tokens.tokenizer.num_special_tokens_to_add()
    if tokens.max_length <= own:
        raise ConfigError("data.max_length", tokens.max_length, f"the tokenizer itself adds {own} tokens")
    return tokens
