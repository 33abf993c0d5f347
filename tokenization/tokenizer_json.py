"""What both tokenizers from scratch do with files and texts that others wrote."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

# A run of characters without a space, or of nothing but space, that is longer is no word, and training on it takes time
# that grows with the square of its length, in the library as well.
LONGEST_RUN = 2000
LONG_RUN = re.compile(rf"(\S{{{LONGEST_RUN}}}|\s{{{LONGEST_RUN}}})")


def read_tokenizer_json(path: str | Path, build: Callable[[dict], T]) -> T:
    """Read a `tokenizer.json` and `build` a tokenizer from it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is cut off, inconsistent, or asks for something that `build` refuses. One line.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a tokenizer.json: {error}") from None
    try:
        return build(data)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{path} is not a whole tokenizer.json: {type(error).__name__} {error}") from None
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def check_unicode(text: str, what: str = "The text", remedy: str = "read it with errors='replace'") -> None:
    """Refuse lone surrogates, which no encoding can write.

    Raises:
        ValueError: names the position of the first.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} has a lone surrogate at position {error.start}: it is not valid Unicode; {remedy}."
        ) from None


def cut_long_runs(text: str) -> Iterator[str]:
    """The text to learn from: whole, unless it has runs of more than `LONGEST_RUN` characters, which are cut."""
    words = text.split()
    spaces = len(text) - sum(map(len, words)) - len(words)
    if spaces < LONGEST_RUN and max(map(len, words), default=0) < LONGEST_RUN:
        yield text
    else:
        yield from filter(None, LONG_RUN.split(text))
