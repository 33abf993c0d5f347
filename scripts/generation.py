"""What the commands that generate text share: the limits of the context, and errors that name the option."""

import contextlib
from collections.abc import Iterator

DEFAULT_NEW_TOKENS = 100


def within_context(options: dict, length: int, model) -> dict:
    """The generation options with a limit on the new tokens, where `length` tokens are there already.

    Raises:
        ValueError: if there is no room, or an option that counts is not a whole number or asks for more than there is.
    """
    context = getattr(model.config, "max_position_embeddings", None)
    room = length + DEFAULT_NEW_TOKENS if context is None else context - length
    if room < 1:
        raise ValueError(f"The prompt has {length} tokens, the model's context {context}: shorten the prompt.")
    for name in {"num_beams", "num_return_sequences"} & options.keys():
        if type(options[name]) is not int or options[name] < 1:
            raise ValueError(f"--{name} is {options[name]!r}: give a whole number from 1 on.")
    limits = {"max_new_tokens": room, "max_length": length + room}
    for name in limits.keys() & options.keys():
        if type(options[name]) is not int:
            raise ValueError(f"--{name} is {options[name]!r}: give a whole number.")
        if context is not None and options[name] > limits[name]:
            raise ValueError(
                f"The prompt has {length} tokens, the model's context {context}: use --{name} {limits[name]} or less."
            )
    if not limits.keys() & options.keys():
        options = {**options, "max_new_tokens": min(DEFAULT_NEW_TOKENS, room)}
    return options


@contextlib.contextmanager
def options_named(options: dict) -> Iterator[None]:
    """Errors of `generate`, which may say anything, name the options that were given."""
    try:
        yield
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        given = ", ".join(f"--{name}" for name in options.keys() - {"max_new_tokens", "max_length"})
        if not given:
            raise
        raise ValueError(f"{' '.join(str(error).split())} (check {given})") from None


def print_generated(model, tokenizer, ids: list[int], options: dict, with_prompt: bool = False) -> None:
    """Print what the model says after `ids`, as it comes; with beams or several texts, at the end.

    Raises:
        ValueError: for options that cannot be, or a prompt that has no room in the model's context.
    """
    import torch
    from transformers import TextStreamer

    options = within_context(options, len(ids), model)
    input_ids = torch.tensor([ids], dtype=torch.long, device=model.device)
    one = options.get("num_beams", 1) == 1 and options.get("num_return_sequences", 1) == 1
    streamer = TextStreamer(tokenizer, skip_prompt=not with_prompt, skip_special_tokens=True) if one else None
    with options_named(options):
        outputs = model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            **options,
            tokenizer=tokenizer,
            streamer=streamer,
        )
    if not one:
        sequences = getattr(outputs, "sequences", outputs)[:, 0 if with_prompt else len(ids) :]
        print("\n---\n".join(tokenizer.batch_decode(sequences, skip_special_tokens=True)))
