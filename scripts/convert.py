"""Convert a checkpoint to another library's format, or back. The logits are compared before anything is written.

    folio convert runs/mine runs/mine-qwen3 --to qwen3
    folio convert runs/mine runs/mine.gguf --to gguf
    folio convert runs/mine runs/mine-q8.gguf --to gguf --quantize q8_0
    folio convert openai-community/gpt2 runs/gpt2 --to folio

SRC is a checkpoint's directory or Hub name (folio, gpt2, llama, qwen3).
"""

import os
import shlex
from dataclasses import dataclass, field

from ..jobs.options import option


@dataclass
class ConvertArguments:
    to: str = field(metadata={"help": "format of DST: folio, gpt2, llama, qwen3, or gguf"})
    quantize: str | None = option(None, "hold the matrices in 8 bits, for --to gguf", choices=["q8_0"])


def main(argv: list[str]) -> None:
    os.environ.setdefault("TQDM_DISABLE", "1")  # transformers' reader of GGUF shows a progress bar

    import transformers

    from ..checkpoints.conversion import convert
    from .arguments import parse

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    source, destination, args = parse(argv, [ConvertArguments], "folio convert", __doc__, positional=("SRC", "DST"))
    done = convert(source, destination, args.to, args.quantize)
    text = "no tokenizer" if done.text_difference is None else f"{done.text_difference:.1e} on a text"
    print(f"{done.source} ({done.kind}, {done.parameters:,} parameters, {done.dtype}) is now {done.destination}")
    print(f"Largest difference of a logit in float32: {done.random_difference:.1e} on random tokens, {text}")
    if done.quantization_error is not None:
        changed = f"{args.quantize} changes the logits by {done.quantization_error:.1%} of their variation"
        print(f"These are differences from the model with rounded weights: {changed}")
    print(f"The source's own rounding, float32 against float64: {done.rounding:.1e}")
    where = shlex.quote(str(done.destination))
    generate = f'Try it: folio generate --model {where} --prompt "Once upon a time"'
    print(f"{done.seconds:.1f} s. " + (f"For llama.cpp: llama-cli -m {where}" if done.to == "gguf" else generate))
