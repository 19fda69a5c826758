"""Files of prompts: JSON lines with an `id` and a `prompt` (text) or `messages` (chat)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_gen.dataset import read_jsonl
from models.config import Qwen2Config


def read_prompts(path: Path, tokenizer: Any) -> list[tuple[Any, list[int]]]:
    """(id, token ids) of each line. Raises ValueError naming the line that does not fit."""
    return [(record["id"], tokens) for _, tokens, record in read_records(path, tokenizer)]


def read_texts(path: Path, tokenizer: Any) -> tuple[list[tuple[str, list[int]]], list[int]]:
    """(id as text, token ids of prompt and optional `response`) of each line, and the lengths of the prompts.

    Raises ValueError naming the line that does not fit.
    """
    texts, prompt_lengths = [], []
    for name, tokens, record in read_records(path, tokenizer):
        response = record.get("response", "")
        if not isinstance(response, str):
            raise ValueError(
                f"{path}, prompt {len(texts) + 1}: expected `response` to be a text, got {response!r:.80}."
            )
        texts.append((name, tokens + list(tokenizer(response, add_special_tokens=False)["input_ids"])))
        prompt_lengths.append(len(tokens))
    return texts, prompt_lengths


def read_records(path: Path, tokenizer: Any) -> list[tuple[str, list[int], dict[str, Any]]]:
    """(id as text, token ids of the prompt, the record) of each line. Raises as `read_prompts`."""
    records: dict[str, tuple[str, list[int], dict[str, Any]]] = {}
    for number, record in enumerate(read_jsonl(path), start=1):
        name, given = record.get("id"), [key for key in ("prompt", "messages") if key in record]
        if name is None or not _is_text(str(name)) or len(given) != 1 or str(name) in records:
            raise ValueError(
                f"{path}, prompt {number}: expected a unique `id` and either `prompt` or `messages`, "
                f"got {json.dumps(record)[:120]}."
            )
        if not _is_valid(record):
            raise ValueError(
                f"{path}, prompt {number}: expected `prompt` to be text, or `messages` to be one or more "
                "objects with a `role` and a `content` that are text, got "
                f"{json.dumps(record[given[0]])[:120]}."
            )
        text = record["prompt"] if "prompt" in record else _chat(record["messages"], tokenizer, path, number)
        records[str(name)] = (str(name), list(tokenizer(text, add_special_tokens=False)["input_ids"]), record)
    if not records:
        raise ValueError(f"{path} holds no prompt.")
    return list(records.values())


def check_lengths(prompts: Sequence[tuple[Any, list[int]]], max_new_tokens: int, config: Qwen2Config) -> None:
    """Raises ValueError naming the first prompt that is empty, or too long for the model with its completion."""
    positions = config.max_position_embeddings
    if max_new_tokens >= positions:
        raise ValueError(
            f"--max-new-tokens: expected less than {positions}, the model's number of positions, got {max_new_tokens}."
        )
    for name, tokens in prompts:
        if not 1 <= len(tokens) <= positions - max_new_tokens:
            raise ValueError(
                f"prompt {name!r}: expected 1 to {positions - max_new_tokens} tokens, as the model has {positions} "
                f"positions and --max-new-tokens={max_new_tokens} of them are for the completion, got {len(tokens)}; "
                "change the prompt or --max-new-tokens."
            )


def _is_valid(record: Mapping[str, Any]) -> bool:
    """Whether the record's `prompt`, or each role and content of its `messages`, is text."""
    if "prompt" in record:
        return _is_text(record["prompt"])
    messages = record["messages"]
    return (
        isinstance(messages, list)
        and len(messages) > 0
        and all(
            isinstance(message, dict) and _is_text(message.get("role")) and _is_text(message.get("content"))
            for message in messages
        )
    )


def _is_text(value: Any) -> bool:
    """Whether it is a string without lone surrogates, which tokenizers refuse."""
    return isinstance(value, str) and value.encode(errors="ignore").decode() == value


def _chat(messages: Any, tokenizer: Any, path: Path, number: int) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(f"{path}, prompt {number}: `messages` need a model with a chat template; write `prompt`.")
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
