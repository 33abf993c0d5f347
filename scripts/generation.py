"""Output of the commands that generate text; errors name the option."""

import asyncio
import contextlib
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator

from ..serving.chat import TooLong


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


def print_answer(generator, choice) -> None:
    """Print an answer as it comes. After Ctrl-C, which ends it, `choice.text` is what was said."""

    async def stream() -> None:
        async with contextlib.aclosing(generator.stream(choice)) as pieces:
            async for piece in pieces:
                print(piece, end="", flush=True)

    try:
        asyncio.run(stream())
    finally:
        print(flush=True)


def print_reply(model, tokenizer, prompt: Callable[[str], str], text: str, options: dict, truncate: bool) -> None:
    """Print the reply to `prompt(text)`, greedily decoded unless `options` ask for sampling.

    With `truncate`, the end of a text that has no room in the context is left out, and that is said.
    """
    from ..serving.chat import Chat
    from ..serving.generator import SAMPLING, TextGenerator
    from ..tokenization import encode_chat

    if not SAMPLING & options.keys():
        options = {"do_sample": False, **options}

    def answer(length: int):
        return chat.answer([{"role": "user", "content": prompt(text[:length])}], **options)[0]

    def is_too_long(length: int) -> bool:
        try:
            answer(length)
        except TooLong:
            return True
        return False

    with contextlib.closing(TextGenerator(model, tokenizer)) as generator:
        chat, length = Chat(generator, tokenizer, encode_chat), len(text)
        try:
            with options_named(options):
                if is_too_long(length) and truncate and not is_too_long(1):
                    length = bisect_left(range(length), True, key=is_too_long) - 1
                    print(f"(of {len(text):,} characters, the first {length:,} have room)", file=sys.stderr)
                print_answer(generator, answer(length))
        except TooLong as error:
            raise ValueError(f"{error} --truncate leaves out its end.") from None
