"""Limits of the context and output, shared by the commands that generate text; errors name the option."""

import contextlib
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator

from ..checkpoints.loading import context_length
from ..serving.chat import TooLong

DEFAULT_NEW_TOKENS = 100


def within_context(options: dict, length: int, model) -> dict:
    """Add a limit on the new tokens to the generation options, if `length` tokens of the context are used."""
    context = context_length(model)
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
            remedy = f"use --{name} {limits[name]} or less"
            raise ValueError(f"The prompt has {length} tokens, the model's context {context}: {remedy}.")
    if not limits.keys() & options.keys():
        options = {**options, "max_new_tokens": min(DEFAULT_NEW_TOKENS, room)}
    return options


@contextlib.contextmanager
def options_named(options: dict) -> Iterator[None]:
    """Errors of `generate`, which may say anything, name the options that were given."""
    try:
        yield
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        given = ", ".join(f"--{name}" for name in options if name not in ("max_new_tokens", "max_length"))
        if not given or isinstance(error, TooLong):
            raise
        raise ValueError(f"{' '.join(str(error).split())} (check {given})") from None


def print_generated(model, tokenizer, ids: list[int], options: dict, with_prompt: bool = False, assistant=None) -> None:
    """Print what the model says after `ids`, as it comes; with beams or several texts, at the end.

    An `assistant` drafts tokens, as `ModelArguments.load` returns it.
    """
    import torch
    from transformers import TextStreamer

    options = within_context(options, len(ids), model)
    input_ids = torch.tensor([ids], dtype=torch.long, device=model.device)
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    one = options.get("num_beams", 1) == 1 and options.get("num_return_sequences", 1) == 1
    streamer = TextStreamer(tokenizer, skip_prompt=not with_prompt, skip_special_tokens=True) if one else None
    with options_named(options):
        drafts = {} if assistant is None else {"assistant_model": assistant}
        outputs = model.generate(**inputs, **options, **drafts, tokenizer=tokenizer, streamer=streamer)
    if not one:
        sequences = getattr(outputs, "sequences", outputs)[:, 0 if with_prompt else len(ids) :]
        print("\n---\n".join(tokenizer.batch_decode(sequences, skip_special_tokens=True)))


def print_answer(generator, choice) -> None:
    """Print an answer as it comes. After Ctrl-C, which ends it, `choice.text` is what was said."""
    import asyncio

    async def stream() -> None:
        async with contextlib.aclosing(generator.stream(choice)) as pieces:
            async for piece in pieces:
                print(piece, end="", flush=True)

    try:
        asyncio.run(stream())
    finally:
        print(flush=True)


def print_reply(model, tokenizer, prompt: Callable[[str], str], text: str, options: dict, truncate: bool) -> None:
    """Print what a model that was fine-tuned on chats replies to `prompt(text)`.

    Decoding is greedy unless `options` ask for sampling. With `truncate`, the end of a text that has
    no room in the context is left out, and that is said.
    """
    from ..serving.chat import Chat
    from ..serving.generator import SAMPLING, TextGenerator
    from ..tokenization import encode_chat

    if not SAMPLING & options.keys():
        options = {"do_sample": False, **options}
    generator = TextGenerator(model, tokenizer)
    chat = Chat(generator, tokenizer, encode_chat)

    def answer(length: int):
        return chat.answer([{"role": "user", "content": prompt(text[:length])}], **options)[0]

    def is_too_long(length: int) -> bool:
        try:
            answer(length)
        except TooLong:
            return True
        return False

    try:
        with options_named(options):
            if is_too_long(len(text)) and truncate and not is_too_long(1):
                kept = bisect_left(range(len(text)), True, key=is_too_long) - 1
                print(f"(of {len(text):,} characters, the first {kept:,} have room)", file=sys.stderr)
                text = text[:kept]
            print_answer(generator, answer(len(text)))
    except TooLong as error:
        raise ValueError(f"{error} --truncate leaves out its end.") from None
    finally:
        generator.close()
