"""What both tokenizers from scratch do with files and texts that others wrote."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Self

# A run of characters without a space, or of nothing but space, that is longer is no word, and training on it takes time
# that grows with the square of its length, in the library as well.
LONGEST_RUN = 2000
LONG_RUN = re.compile(rf"(\S{{{LONGEST_RUN}}}|\s{{{LONGEST_RUN}}})")
SPECIAL_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def tokenizer_json(special: dict[str, int], model: dict, pre_tokenizer: dict, decoder: dict, normalizer=None) -> dict:
    """The content of a `tokenizer.json`, in the library's order."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": id, "content": token, **SPECIAL_FLAGS} for token, id in special.items()],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }


def check_room(vocab_size: int, special_tokens: int) -> None:
    """Raises ValueError if a byte-level vocabulary has no room for all bytes."""
    if vocab_size < (least := 256 + special_tokens):
        what = f"the 256 bytes and {special_tokens} special tokens"
        raise ValueError(f"A vocabulary of {vocab_size} has no room for {what}: use at least {least}.")


def check_filled(supported: int, vocab_size: int) -> None:
    """Raises ValueError if a text has given fewer tokens than it should."""
    if supported < vocab_size:
        remedy = f"use a vocab_size of at most {supported}, or more text"
        raise ValueError(f"The text supports a vocabulary of {supported}, not of {vocab_size}: {remedy}.")


class ScratchTokenizer:
    """What both tokenizers have in common: `tokens` by id, and `to_dict` and `_from_dict` for a `tokenizer.json`."""

    def __len__(self) -> int:
        """The number of ids."""
        return len(self.tokens)

    def save(self, path: str | Path) -> None:
        """Write a `tokenizer.json`, which the `tokenizers` library and `PreTrainedTokenizerFast` open."""
        Path(path).write_text(json.dumps(self.to_dict(), ensure_ascii=False, indent=2), encoding="utf-8")

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a `tokenizer.json` that `save` could have written; raises ValueError for another, FileNotFoundError."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a tokenizer.json: {error}") from None
        try:
            return cls._from_dict(data)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"{path} is not a whole tokenizer.json: {type(error).__name__} {error}") from None
        except ValueError as error:
            raise ValueError(f"{path} cannot be read: {error}") from None


def check_unicode(text: str, what: str = "The text", remedy: str = "read it with errors='replace'") -> None:
    """Raises ValueError, with its position, for a lone surrogate, which no encoding can write."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        why = f"has a lone surrogate at position {error.start}"
        raise ValueError(f"{what} {why}: it is not valid Unicode; {remedy}.") from None


def cut_long_runs(text: str) -> Iterator[str]:
    """The text to learn from: whole, unless it has runs of more than `LONGEST_RUN` characters, which are cut."""
    words = text.split()
    spaces = len(text) - sum(map(len, words)) - len(words)
    if spaces < LONGEST_RUN and max(map(len, words), default=0) < LONGEST_RUN:
        yield text
    else:
        yield from filter(None, LONG_RUN.split(text))
