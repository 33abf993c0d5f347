"""Continue a prompt with a checkpoint, ours or any causal language model.

    folio generate --model runs/quickstart --prompt "The for statement"
    folio generate --model runs/quickstart --prompt "The for statement" --do_sample false --max_new_tokens 40
    folio generate --model runs/quickstart --prompt "The for statement" --temperature 0.7 --top_k 20 --seed 1
    folio generate --model runs/quickstart --prompt "The for statement" --do_sample false --prompt_lookup_num_tokens 5
    folio generate --model runs/quickstart --prompt "The for statement" --quantize int8

Any other option is a field of transformers' GenerationConfig.
"""

from dataclasses import dataclass, field

from ..jobs.options import option
from .model_arguments import ModelArguments

DEFAULT_NEW_TOKENS = 100


@dataclass(kw_only=True)
class GenerateArguments(ModelArguments):
    prompt: str = field(metadata={"help": "text to continue"})
    seed: int | None = option(None, "random seed, which makes sampling repeatable")


def main(argv: list[str]) -> None:
    import torch
    import transformers

    from ..checkpoints.loading import context_length
    from ..tokenization import encode_texts
    from .arguments import parse_with_generation
    from .generation import options_named

    args, options = parse_with_generation(argv, GenerateArguments, "folio generate", __doc__)
    if not args.prompt:
        raise ValueError("The prompt is empty: give some text with --prompt.")
    if args.seed is not None:
        transformers.set_seed(args.seed)
    model, tokenizer, assistant = args.load()
    # What the model expects before a text, its beginning-of-text token for instance, then the prompt as mere text.
    ids = tokenizer("")["input_ids"] + encode_texts(tokenizer, [args.prompt])[0]
    options = within_context(options, len(ids), context_length(model))
    is_one = options.get("num_beams", 1) == options.get("num_return_sequences", 1) == 1
    streamer = transformers.TextStreamer(tokenizer, skip_special_tokens=True) if is_one else None
    input_ids = torch.tensor([ids], dtype=torch.long, device=model.device)
    inputs = {"inputs": input_ids, "attention_mask": torch.ones_like(input_ids), "tokenizer": tokenizer}
    with options_named(options):
        outputs = model.generate(**inputs, **options, streamer=streamer, assistant_model=assistant)
    if not is_one:
        sequences = getattr(outputs, "sequences", outputs)
        print("\n---\n".join(tokenizer.batch_decode(sequences, skip_special_tokens=True)))


def within_context(options: dict, length: int, context: int | None) -> dict:
    """Add a limit on the new tokens to the generation options, if `length` tokens of the context are used."""
    room = DEFAULT_NEW_TOKENS if context is None else context - length
    has = f"The prompt has {length} tokens, the model's context {context}"
    if room < 1:
        raise ValueError(f"{has}: shorten the prompt.")
    limits = {"max_new_tokens": room, "max_length": length + room}
    for name in {"num_beams", "num_return_sequences", *limits} & options.keys():
        if type(options[name]) is not int or options[name] < 1:
            raise ValueError(f"--{name} is {options[name]!r}: give a whole number from 1 on.")
        if context is not None and options[name] > limits.get(name, options[name]):
            raise ValueError(f"{has}: use --{name} {limits[name]} or less.")
    default = {} if limits.keys() & options.keys() else {"max_new_tokens": min(DEFAULT_NEW_TOKENS, room)}
    return {**options, **default}
