"""The files of the tokenizers from scratch, and checks of texts and vocabularies."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Self

# Longer runs of characters without a space, or of spaces alone, are no words, and training on one takes time that grows
# with the square of its length, in the library as well.
LONGEST_RUN = 2000
LONG_RUN = re.compile(rf"(\S{{{LONGEST_RUN}}}|\s{{{LONGEST_RUN}}})")
READ_AGAIN = "read it with errors='replace'"
SPECIAL_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def tokenizer_json(special: dict[str, int], model: dict, pre_tokenizer: dict, decoder: dict, normalizer=None) -> dict:
    """Return the content of a `tokenizer.json`, in the library's order."""
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": id, "content": token, **SPECIAL_FLAGS} for token, id in special.items()],
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": None,
        "decoder": decoder, "model": model,
    }  # fmt: skip


def check_room(vocab_size: int, special_tokens: int, symbols: int = 256, name: str = "bytes") -> None:
    """Raise ValueError if a vocabulary has no room for the symbols of which tokens are merged."""
    if vocab_size < (least := symbols + special_tokens):
        what = f"the {symbols} {name} and {special_tokens} special tokens"
        raise ValueError(f"A vocabulary of {vocab_size} has no room for {what}: use at least {least}.")


def check_filled(supported: int, vocab_size: int) -> None:
    """Raise ValueError if fewer tokens than `vocab_size` can be learned from a text."""
    if supported < vocab_size:
        what = f"--vocab_size {vocab_size} is too large for this text: only {supported} tokens can be learned from it"
        raise ValueError(f"{what}. Use --vocab_size {supported} or less, or more text.")


class ScratchTokenizer:
    """The common part of both tokenizers: `tokens` by id, and `to_dict` and `_from_dict` for a `tokenizer.json`."""

    def __len__(self) -> int:
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
            raise ValueError(f"{path} is not a complete tokenizer.json: {type(error).__name__} {error}") from None
        except ValueError as error:
            raise ValueError(f"{path} cannot be read: {error}") from None


def check_unicode(text: str, what: str = "The text", remedy: str = READ_AGAIN) -> None:
    """Raise ValueError with the position of a lone surrogate, which no encoding can write."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        why = f"has a lone surrogate at position {error.start}"
        raise ValueError(f"{what} {why}: it is not valid Unicode; {remedy}.") from None


def cut_long_runs(text: str, remedy: str = READ_AGAIN) -> Iterator[str]:
    """Yield a text as a whole, or cut where it has runs of more than `LONGEST_RUN` characters; ValueError as above."""
    check_unicode(text, remedy=remedy)
    words = text.split()
    spaces = len(text) - sum(map(len, words)) - len(words)
    if spaces < LONGEST_RUN and max(map(len, words), default=0) < LONGEST_RUN:
        yield text
    else:
        yield from filter(None, LONG_RUN.split(text))
