"""Continue a prompt with a checkpoint, ours or any causal language model.

    folio generate --model runs/quickstart --prompt "The for statement"
    folio generate --model runs/quickstart --prompt "The for statement" --do_sample false --max_new_tokens 40
    folio generate --model runs/quickstart --prompt "The for statement" --temperature 0.7 --top_k 20 --seed 1

Any other option is a field of transformers' GenerationConfig.
"""

from dataclasses import dataclass, field


@dataclass
class GenerateArguments:
    model: str = field(metadata={"help": "a checkpoint's or adapter's directory or Hub name"})
    prompt: str = field(metadata={"help": "the text to continue"})
    seed: int | None = field(default=None, metadata={"help": "makes sampling repeatable"})
    trust_remote_code: bool = field(default=False, metadata={"help": "run the code in the checkpoint; not for ours"})


def main(argv: list[str]) -> None:
    import torch
    import transformers
    from transformers import TextStreamer

    from ..tokenization import encode_texts
    from ..training.loading import load_model
    from .arguments import parse_with_generation

    args, options = parse_with_generation(argv, GenerateArguments, "folio generate", __doc__)
    if not args.prompt:
        raise ValueError("The prompt is empty: give some text with --prompt.")
    if args.seed is not None:
        transformers.set_seed(args.seed)
    model, tokenizer = load_model(args.model, trust_remote_code=args.trust_remote_code)
    # What the model expects before a text, its beginning-of-text token for instance, then the prompt as mere text.
    ids = tokenizer("")["input_ids"] + encode_texts(tokenizer, [args.prompt])[0]
    length = len(ids)
    input_ids = torch.tensor([ids], dtype=torch.long, device=model.device)
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    room = getattr(model.config, "max_position_embeddings", length + 100) - length
    if room < 1:
        raise ValueError(f"The prompt has {length} tokens, the model's context {length + room}: shorten the prompt.")
    for name in {"num_beams", "num_return_sequences"} & options.keys():
        if type(options[name]) is not int or options[name] < 1:
            raise ValueError(f"--{name} is {options[name]!r}: give a whole number from 1 on.")
    limits = {"max_new_tokens": room, "max_length": length + room}
    for name in limits.keys() & options.keys():
        if type(options[name]) is not int:
            raise ValueError(f"--{name} is {options[name]!r}: give a whole number.")
        if options[name] > limits[name]:
            raise ValueError(
                f"The prompt has {length} tokens, the model's context {length + room}: "
                f"use --{name} {limits[name]} or less."
            )
    if not limits.keys() & options.keys():
        options["max_new_tokens"] = min(100, room)
    one = options.get("num_beams", 1) == 1 and options.get("num_return_sequences", 1) == 1
    streamer = TextStreamer(tokenizer, skip_special_tokens=True) if one else None
    try:
        outputs = model.generate(**inputs, **options, tokenizer=tokenizer, streamer=streamer)
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        if not options.keys() - limits.keys():
            raise
        given = ", ".join(f"--{name}" for name in options)
        raise ValueError(f"{' '.join(str(error).split())} (check {given})") from None
    if not one:
        sequences = getattr(outputs, "sequences", outputs)
        print("\n---\n".join(tokenizer.batch_decode(sequences, skip_special_tokens=True)))
