"""What both tokenizers from scratch do with files and texts that others wrote."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


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
