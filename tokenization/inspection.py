"""A look at how a tokenizer cuts a text: its tokens in colours, and the figures by which tokenizers are compared."""

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
from .control_tokens import encode_texts

PIECE = 200_000  # characters that are encoded at once
LONGEST_SHOWN = 8
MOST_LISTED = 20
# Dark enough for white text, bright enough to be told apart, neighbours unlike each other.
COLOURS = [24, 130, 28, 90, 94, 30, 125]
NEVER_IN_UTF8 = re.compile(rb"[\xc0\xc1\xf5-\xff]")


@dataclass
class Inspection:
    """What a tokenizer does with one text."""

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
        """The figures as they are shown, by name."""
        return {
            "tokens": f"{self.tokens:,}",
            "bytes per token": f"{self.num_bytes / max(self.tokens, 1):.3f}",
            "tokens per word": f"{self.tokens / max(self.words, 1):.3f}",
            "vocabulary": f"{self.vocabulary:,}",
            "of it used here": f"{self.used:,} ({self.used / max(self.vocabulary, 1):.1%})",
            "unreachable": f"{len(self.unreachable):,}",
        }


def inspect(tokenizer: PreTrainedTokenizerBase, text: str, name: str) -> Inspection:
    """Encode a text of any length and count; raises ValueError if it is not valid Unicode."""
    counts: Counter[int] = Counter()
    parts = pieces(text)
    while batch := list(islice(parts, 16)):
        for ids in encode_texts(tokenizer, batch):
            counts.update(ids)
    spelled = vocabulary_bytes(tokenizer)
    by_length = sorted(counts, key=lambda id: (-len(spelled[id]), id))
    return Inspection(
        name=name,
        vocabulary=len(tokenizer),
        tokens=counts.total(),
        num_bytes=sum(len(piece.encode()) for piece in pieces(text)),
        words=sum(1 for _ in re.finditer(r"\S+", text)),
        used=len(counts),
        longest=[shown(spelled[id]) for id in by_length[:LONGEST_SHOWN]],
        unreachable=[shown(spelled[id]) for id in unreachable(tokenizer)],
    )


def table(found: list[Inspection]) -> str:
    """The figures of one or more tokenizers side by side, and their longest and their unreachable tokens."""
    rows = [[name, *(each.rows[name] for each in found)] for name in found[0].rows]
    lines = [markdown_table(["", *(each.name for each in found)], rows)]
    for each in found:
        lines.append(f"\nlongest tokens here, {each.name}: {' '.join(each.longest)}")
        if each.unreachable:
            more = f" and {len(each.unreachable) - MOST_LISTED} more" if len(each.unreachable) > MOST_LISTED else ""
            lines.append(f"no text gives, {each.name}: {' '.join(each.unreachable[:MOST_LISTED])}{more}")
    return "\n".join(lines)


def pieces(text: str, size: int = PIECE) -> Iterator[str]:
    """Cut a long text at the beginnings of lines, where tokens end anyway, or at any place if a line has no end."""
    start = 0
    while start < len(text):
        end = start + size
        line = text.rfind("\n", start, end) + 1 if end < len(text) else 0
        yield text[start : line or end]
        start = line or end


def vocabulary_bytes(tokenizer: PreTrainedTokenizerBase) -> dict[int, bytes]:
    """The bytes that each token stands for, whatever characters the vocabulary spells them with."""
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
    """Whether tokens are spelled with GPT-2's characters for bytes."""
    decoder = tokenizer.backend_tokenizer.decoder if tokenizer.is_fast else None
    return decoder is not None and b'"ByteLevel"' in decoder.__getstate__()


def unreachable(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that no text is encoded as, without added tokens and parts of words that the model does not cut up."""
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
            texts.append((id, whole))  # others may depend on what is before them
    encoded = encode_texts(tokenizer, [text for _, text in texts])
    return sorted([*suspects, *(id for (id, _), ids in zip(texts, encoded, strict=True) if ids != [id])])


def shown(data: bytes) -> str:
    """Bytes as text in which everything can be seen: `·` for a space, `⏎` for a newline, hexadecimal for the rest."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "".join(chr(byte) if 33 <= byte < 127 else f"\\x{byte:02x}" for byte in data)
    marks = {" ": "·", "\n": "⏎", "\t": "→", "\r": "␍"}
    return "".join(marks.get(each, each if each.isprintable() else repr(each)[1:-1]) for each in text)


def cells(tokenizer: PreTrainedTokenizerBase, text: str, limit: int, colours: bool, width: int = 0) -> str:
    """The first `limit` tokens of a text, the id of each below it, and its bytes where they are no plain text.

    Tokens have colours as backgrounds, or bars between them; `width` is in columns, by default the terminal's.
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
        head = f"\x1b[97;48;5;{COLOURS[index % len(COLOURS)]}m{head}\x1b[0m " if colours else f"{head}|"
        below = [f"{cell:<{wide + 1}}" for cell in column[1:]]
        dim = [f"\x1b[2m{cell}\x1b[0m" if colours else cell for cell in below]
        rows, used = (rows[0] + head, rows[1] + dim[0], rows[2] + dim[1]), used + wide + 1
        ends_line = data.endswith(b"\n")
    lines += [*rows]
    return "\n".join(line.rstrip() for line in lines if re.sub(r"\x1b\[[\d;]*m|\s", "", line))


def columns(text: str) -> int:
    """Columns that a text takes in a terminal, where Chinese characters and emoji are two wide, and marks none."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)


def _clip(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
