"""Trains a small byte-level BPE tokenizer with the special tokens of a chat model."""

import re
from collections.abc import Iterable
from typing import Any

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")

# Qwen2's pre-tokenization pattern: loaders rebuild it for tokenizers of class Qwen2, so no other may be used.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer(texts: Iterable[str], size: int) -> Any:
    """Trains a byte-level BPE tokenizer of at most `size` ids on `texts`.

    Encoding and decoding is lossless for any text. Returns a transformers tokenizer with a chat template, <|im_end|> as
    end-of-sequence token and <|endoftext|> as padding token. Raises ValueError if `size` is smaller than the number of
    bytes and special tokens. Source: Sennrich et al. 2016 (arXiv 1508.07909), applied to bytes.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = (PAD, START, END, *TAGS)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if size < len(alphabet) + len(special):
        raise ValueError(
            f"expected a vocabulary of at least {len(alphabet) + len(special)} ids, got {size}; choose a larger size."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size - len(special), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator((re.sub("|".join(TAGS), "\n", text) for text in texts), trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special[:3]])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
