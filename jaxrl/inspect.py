"""Write hidden states and the logit lens of a model on given texts, for interpretability.

    python -m jaxrl.inspect --model=RUN@100 --prompts=FILE.jsonl --layers=0,2,3 --output=FILE.npz

A line of --prompts has an `id`, a `prompt` (text) or `messages` (chat), and optionally a `response` (text), which is
tokenized separately and appended. The output is for numpy.load. N texts, L layers, T tokens of the longest text,
D width, K --top:

    ids             [N]           ids of the lines, as texts
    tokens          [N, T]        int32 token ids, -1 after a text's end
    lengths         [N]           int32 tokens of each text
    prompt_lengths  [N]           int32 tokens before the response
    layers          [L]           int32 --layers, from 0
    hidden          [N, L, T, D]  float32, the residual stream after each layer, before any norm
    final           [N, T, D]     float32, the residual stream after all layers and the final norm
    lens_tokens     [N, L, T, K]  int32, logit lens: the final norm and the head applied to each layer's stream; the K
                                  most likely next tokens, most likely first; -1 after a text's end
    lens_logp       [N, L, T, K]  float32, their log-probabilities in nats; for the last layer the model's own

Floats after a text's end are 0. Values at position t predict the token after `tokens[:, t]`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_gen.command_parser import whole_numbers
from jaxrl.command_line import CommandParser, run


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser("jaxrl.inspect", __doc__)
    parser.add_argument(
        "--model", "--checkpoint", dest="model", required=True, help="RUN, RUN@step, a Hugging Face folder or name"
    )
    parser.add_argument("--prompts", type=Path, required=True, help="JSON lines: id, prompt or messages, response")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.npz", help="written atomically at the end")
    parser.add_argument("--layers", type=whole_numbers, metavar="0,2,3", help="from 0 (all layers)")
    parser.add_argument("--top", type=int, default=8, help="tokens of the logit lens at each position (8)")
    parser.add_argument("--batch", type=int, default=8, help="texts at a time (8)")
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        default="float32",
        help="of weights and matrix products; the output is float32 (float32)",
    )
    return parser


def inspect(given: argparse.Namespace) -> None:
    """Run the command. Raises ValueError and OSError with one sentence each."""
    import numpy as np

    from jaxrl.inference.hidden_states import inspect_rows
    from jaxrl.inference.load import find_model
    from jaxrl.inference.prompt_files import read_texts
    from jaxrl.reporting.files import open_atomic

    if given.batch < 1:
        raise ValueError(f"expected a --batch of 1 or more, got {given.batch}.")
    source = find_model(given.model)
    layers = given.layers or list(range(source.config.num_hidden_layers))
    texts, prompt_lengths = read_texts(given.prompts, source.tokenizer)
    arrays = inspect_rows(source, texts, layers, given.top, given.batch, given.dtype)
    with open_atomic(given.output) as stream:
        np.savez(stream, **arrays, prompt_lengths=np.array(prompt_lengths, np.int32))
    sizes = " x ".join(map(str, arrays["hidden"].shape))
    print(f"hidden states: {given.output} (texts x layers x tokens x width: {sizes})")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run(make_parser(), inspect, argv)


if __name__ == "__main__":
    sys.exit(main())
