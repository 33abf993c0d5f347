"""Continue a prompt with a checkpoint, ours or any causal language model.

    folio generate --model runs/quickstart --prompt "The for statement"
    folio generate --model runs/quickstart --prompt "The for statement" --do_sample false --max_new_tokens 40
    folio generate --model runs/quickstart --prompt "The for statement" --temperature 0.7 --top_k 20 --seed 1

Any other option is a field of transformers' GenerationConfig.
"""

from dataclasses import dataclass, field


@dataclass
class GenerateArguments:
    model: str = field(metadata={"help": "a checkpoint's directory or Hub name"})
    prompt: str = field(metadata={"help": "the text to continue"})
    seed: int | None = field(default=None, metadata={"help": "makes sampling repeatable"})
    trust_remote_code: bool = field(default=False, metadata={"help": "run the code in the checkpoint; not for ours"})


def main(argv: list[str]) -> None:
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer

    from .. import modeling  # noqa: F401  makes our checkpoints load without remote code
    from .arguments import parse_with_generation

    args, options = parse_with_generation(argv, GenerateArguments, "folio generate", __doc__)
    if not args.prompt:
        raise ValueError("The prompt is empty: give some text with --prompt.")
    if args.seed is not None:
        transformers.set_seed(args.seed)
    transformers.logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(args.model, trust_remote_code=args.trust_remote_code)
        model = AutoModelForCausalLM.from_pretrained(args.model, trust_remote_code=args.trust_remote_code)
    except OSError as error:
        first_line = str(error).splitlines()[0]
        raise OSError(
            f"{args.model} is not a checkpoint's directory, nor a model on the Hub within reach ({first_line})"
        ) from None
    if torch.accelerator.is_available():
        model = model.to(torch.accelerator.current_accelerator())
    inputs = tokenizer(args.prompt, return_tensors="pt").to(model.device)
    length = inputs["input_ids"].shape[1]
    room = getattr(model.config, "max_position_embeddings", length + 100) - length
    if room < 1:
        raise ValueError(f"The prompt has {length} tokens, the model's context {length + room}: shorten the prompt.")
    if "max_new_tokens" not in options and "max_length" not in options:
        options["max_new_tokens"] = min(100, room)
    if not isinstance(options.get("max_new_tokens", 0), int):
        raise ValueError(f"--max_new_tokens is {options['max_new_tokens']!r}: give a whole number.")
    if options.get("max_new_tokens", 0) > room:
        raise ValueError(
            f"The prompt has {length} tokens, the model's context {length + room}: use --max_new_tokens {room} or less."
        )
    one = options.get("num_beams", 1) == 1 and options.get("num_return_sequences", 1) == 1
    streamer = TextStreamer(tokenizer, skip_special_tokens=True) if one else None
    try:
        outputs = model.generate(**inputs, **options, streamer=streamer)
    except TypeError as error:
        raise ValueError(f"An option has a value of the wrong kind: {error}") from None
    if not one:
        print("\n---\n".join(tokenizer.batch_decode(outputs, skip_special_tokens=True)))
