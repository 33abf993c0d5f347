"""The tokens of a text in colors, and the metrics by which tokenizers are compared."""

import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from transformers import PreTrainedTokenizerBase

from ..jobs.markdown import markdown_table
from .bpe import BYTES
from .special_tokens import encode_texts

PIECE_SIZE = 200_000  # characters that are encoded at once
LONGEST_SHOWN, UNREACHABLE_SHOWN = 8, 20
# Dark enough for white text, bright enough to be distinct, adjacent ones unlike each other.
COLORS = [24, 130, 28, 90, 94, 30, 125]
NEVER_IN_UTF8 = re.compile(rb"[\xc0\xc1\xf5-\xff]")


@dataclass
class Inspection:
    """The metrics of a tokenizer on one text."""

    name: str
    vocabulary: int
    tokens: int
    num_bytes: int
    words: int  # between spaces
    used: int  # ids that occur
    longest: list[str]  # of the tokens that occur
    unreachable: list[str]

    @property
    def rows(self) -> dict[str, str]:
        return {
            "tokens": f"{self.tokens:,}",
            "bytes per token": f"{self.num_bytes / max(self.tokens, 1):.3f}",
            "tokens per word": f"{self.tokens / max(self.words, 1):.3f}",
            "vocabulary": f"{self.vocabulary:,}",
            "of it used here": f"{self.used:,} ({self.used / max(self.vocabulary, 1):.1%})",
            "unreachable": f"{len(self.unreachable):,}",
        }


def inspect(tokenizer: PreTrainedTokenizerBase, text: str, name: str) -> Inspection:
    """Measure a tokenizer on a text of any length; raises ValueError if it is not valid Unicode."""
    counts: Counter[int] = Counter()
    parts = pieces(text)
    while batch := list(islice(parts, 16)):
        for ids in encode_texts(tokenizer, batch):
            counts.update(ids)
    spelled = vocabulary_bytes(tokenizer)
    by_length = sorted(counts, key=lambda id: (-len(spelled[id]), id))
    longest, never = ([shown(spelled[id]) for id in ids] for ids in (by_length[:LONGEST_SHOWN], unreachable(tokenizer)))
    num_bytes = sum(len(piece.encode()) for piece in pieces(text))
    words = sum(1 for _ in re.finditer(r"\S+", text))
    return Inspection(name, len(tokenizer), counts.total(), num_bytes, words, len(counts), longest, never)


def table(found: list[Inspection]) -> str:
    """Return a table of the metrics of tokenizers, with their longest and their unreachable tokens below it."""
    rows = [[name, *(each.rows[name] for each in found)] for name in found[0].rows]
    lines = [markdown_table(["", *(each.name for each in found)], rows)]
    for each in found:
        lines.append(f"\nlongest tokens here, {each.name}: {' '.join(each.longest)}")
        if each.unreachable:
            more = [f"and {others} more"] if (others := len(each.unreachable) - UNREACHABLE_SHOWN) > 0 else []
            lines.append(f"unreachable, {each.name}: {' '.join([*each.unreachable[:UNREACHABLE_SHOWN], *more])}")
    return "\n".join(lines)


def pieces(text: str, size: int = PIECE_SIZE) -> Iterator[str]:
    """Yield a long text in pieces that end with a line, as tokens do, or anywhere in a line that is longer."""
    start = 0
    while start < len(text):
        end = start + size
        line = text.rfind("\n", start, end) + 1 if end < len(text) else 0
        yield text[start : line or end]
        start = line or end


def vocabulary_bytes(tokenizer: PreTrainedTokenizerBase) -> dict[int, bytes]:
    """Return the bytes of each token, whichever characters the vocabulary writes for them."""
    byte_level, spelled = _is_byte_level(tokenizer), {}
    for token, id in tokenizer.get_vocab().items():
        if byte_level and all(character in BYTES for character in token):
            spelled[id] = b"".join([BYTES[character] for character in token])
        elif fallback := re.fullmatch(r"<0x([0-9A-F]{2})>", token):
            spelled[id] = bytes([int(fallback[1], 16)])
        else:
            spelled[id] = token.removeprefix("##").replace("▁", " ").encode(errors="replace")
    return spelled | {id: token.content.encode() for id, token in tokenizer.added_tokens_decoder.items()}


def _is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    decoder = tokenizer.backend_tokenizer.decoder if tokenizer.is_fast else None
    return decoder is not None and b'"ByteLevel"' in decoder.__getstate__()


def unreachable(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return ids that no text is encoded as, except added tokens and pieces that continue a word."""
    if not tokenizer.is_fast:
        return []
    model, byte_level = tokenizer.backend_tokenizer.model, _is_byte_level(tokenizer)
    prefix = getattr(model, "continuing_subword_prefix", None) or "\0"
    spelled, added = vocabulary_bytes(tokenizer), tokenizer.added_tokens_decoder
    suspects, texts = [], []
    for token, id in tokenizer.get_vocab().items():
        if id in added or token.startswith(prefix) or re.fullmatch(r"<0x\w\w>", token):
            continue
        if [found.id for found in model.tokenize(token)] != [id] or (byte_level and NEVER_IN_UTF8.search(spelled[id])):
            suspects.append(id)
        elif byte_level and "\ufffd" not in (whole := spelled[id].decode(errors="replace")):
            texts.append((id, whole))  # others may depend on the text before them
    encoded = encode_texts(tokenizer, [text for _, text in texts])
    return sorted([*suspects, *(id for (id, _), ids in zip(texts, encoded, strict=True) if ids != [id])])


def shown(data: bytes) -> str:
    """Return bytes as visible text: `·` for a space, `⏎` for a newline, hexadecimal for bytes that are no text."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "".join(chr(byte) if 33 <= byte < 127 else f"\\x{byte:02x}" for byte in data)
    marks = {" ": "·", "\n": "⏎", "\t": "→", "\r": "␍"}
    return "".join(marks.get(each, each if each.isprintable() else repr(each)[1:-1]) for each in text)


def cells(tokenizer: PreTrainedTokenizerBase, text: str, limit: int, colors: bool, width: int = 0) -> str:
    """Draw the first `limit` tokens of a text, their ids, and their bytes if they are not plain text.

    Tokens have background colors, or bars between them; `width` is in columns, by default the terminal's.
    """
    ids = encode_texts(tokenizer, [text[: 40 * limit]])[0][:limit]
    width, spelled = width or shutil.get_terminal_size().columns, vocabulary_bytes(tokenizer)
    lines, rows, used, ends_line = [], ("", "", ""), 0, False
    for index, id in enumerate(ids):
        data = spelled[id]
        plain = all(32 <= byte < 127 or byte == 10 for byte in data)
        column = (_clip(shown(data), width - 2), str(id), _clip("" if plain else data.hex(" "), width - 2))
        wide = max(map(columns, column))
        if used + wide + 1 > width or ends_line:
            lines += [*rows]
            rows, used = ("", "", ""), 0
        head = column[0] + " " * (wide - columns(column[0]))
        head = f"\x1b[97;48;5;{COLORS[index % len(COLORS)]}m{head}\x1b[0m " if colors else f"{head}|"
        below = [f"{cell:<{wide + 1}}" for cell in column[1:]]
        dim = [f"\x1b[2m{cell}\x1b[0m" if colors else cell for cell in below]
        rows, used = (rows[0] + head, rows[1] + dim[0], rows[2] + dim[1]), used + wide + 1
        ends_line = data.endswith(b"\n")
    lines += [*rows]
    return "\n".join(line.rstrip() for line in lines if re.sub(r"\x1b\[[\d;]*m|\s", "", line))


def columns(text: str) -> int:
    """Return a text's columns in a terminal: two for Chinese characters and emoji, none for combining marks."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)


def _clip(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
