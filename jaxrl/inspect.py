"""Hidden states and logit lens of a model on given texts, for interpretability.

    python -m jaxrl.inspect --model=RUN@100 --prompts=FILE.jsonl --layers=0,2,3 --output=FILE.npz

A line of --prompts has an `id`, a `prompt` (text) or `messages` (chat), and optionally the text of a `response`, which
is tokenised apart and appended. numpy.load reads the output; N texts, L layers, T the longest text, D width, K --top:

    ids             [N]           of the lines, as texts
    tokens          [N, T]        int32 token ids, -1 beyond a text's end
    lengths         [N]           int32 tokens of each text
    prompt_lengths  [N]           int32 tokens before the response
    layers          [L]           int32, as asked for, from 0
    hidden          [N, L, T, D]  float32, the residual stream after each layer, before any norm
    final           [N, T, D]     float32, the stream after all layers and the final norm
    lens_tokens     [N, L, T, K]  int32, what the final norm and the head make of each layer's stream: the likeliest
                                  next tokens, likeliest first; -1 beyond a text's end
    lens_logp       [N, L, T, K]  float32, their log-probabilities in nats; at the last layer they are the model's own

Numbers beyond a text's end are 0. What stands at position t speaks of the token after `tokens[:, t]`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxrl.generate import read_records


def read_texts(path: Path, tokenizer: Any) -> tuple[list[tuple[str, list[int]]], list[int]]:
    """(id, token ids of prompt and response) of each line, and how many of them are the prompt's.

    Raises ValueError naming the line that does not fit.
    """
    rows, prompts = [], []
    for name, tokens, record in read_records(path, tokenizer):
        response = record.get("response", "")
        if not isinstance(response, str):
            raise ValueError(f"{path}, prompt {len(rows) + 1}: expected `response` to be a text, got {response!r:.80}.")
        rows.append((name, tokens + list(tokenizer(response, add_special_tokens=False)["input_ids"])))
        prompts.append(len(tokens))
    return rows, prompts


def inspect(given: argparse.Namespace) -> str:
    """Writes the arrays; returns a sentence that says where and how large they are."""
    import numpy as np

    from jaxrl.inference.hidden_states import inspect_rows
    from jaxrl.inference.load import find_model
    from jaxrl.reporting.files import written_whole

    source = find_model(given.model)
    layers = given.layers or list(range(source.config.num_hidden_layers))
    rows, prompts = read_texts(given.prompts, source.tokenizer)
    found = inspect_rows(source, rows, layers, given.top, given.batch, given.dtype)
    with written_whole(given.output) as stream:
        np.savez(stream, **found, prompt_lengths=np.array(prompts, np.int32))
    sizes = " x ".join(map(str, found["hidden"].shape))
    return f"hidden states: {given.output} (texts x layers x tokens x width: {sizes})"


def _layers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m jaxrl.inspect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", "--checkpoint", dest="model", required=True, help="RUN, RUN@step, a Hugging Face folder or name"
    )
    parser.add_argument("--prompts", type=Path, required=True, help="JSON lines: id, prompt or messages, response")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.npz", help="written whole at the end")
    parser.add_argument("--layers", type=_layers, metavar="0,2,3", help="from 0 (all of them)")
    parser.add_argument("--top", type=int, default=8, help="tokens of the logit lens at each place (8)")
    parser.add_argument("--batch", type=int, default=8, help="texts at a time (8)")
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        default="float32",
        help="of weights and products; what is written is float32 (float32)",
    )
    given = parser.parse_args(arguments)
    if given.batch < 1:
        parser.error("expected a --batch of 1 or more.")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    given = _parse(arguments)
    try:
        print(inspect(given))
    except (OSError, ValueError) as error:
        print(f"jaxrl.inspect: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
