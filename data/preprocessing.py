"""Decoding of raw files to texts, and duplicates among texts."""

import codecs
import io
import logging
import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import BinaryIO

import charset_normalizer
import rensa

logger = logging.getLogger(__name__)

# UTF-32 comes first: the UTF-16 mark is the beginning of the UTF-32 one.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    **dict.fromkeys((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), "utf-32"),
    **dict.fromkeys((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "utf-16"),
}
# The bytes below 32 that text does not hold: all but \a \b \t \n \v \f \r and escape, as in file(1).
CONTROL_BYTES = bytes(set(range(32)) - {7, 8, 9, 10, 11, 12, 13, 27})
# A compressed stream has about a tenth of them; a hundredth leaves room for a stray one in old text.
MAX_CONTROL_SHARE = 0.01
# Places with bytes above 127 and their surroundings; a thousand of them are enough for a guess.
TELLING_BYTES = re.compile(rb"[\x00-\x7f]{0,80}[\x80-\xff]+[\x00-\x7f]{0,80}")
MAX_TELLING_PLACES = 1000
MAX_STRAY_SHARE = 0.001
NOT_WESTERN = re.compile("[a-z][¹³¿¥£]|[ðþýÐÞÝ]")  # Polish or Turkish that is read as Western has these
GUESS_LINES = 10_000  # lines from which the encoding of a file that is read by lines is guessed

SHINGLE_TOKENS = 5
# Chinese and Japanese put no spaces between words, so each of their characters is a token; so is each
# punctuation mark, without which "a + b" would equal "a - b".
TOKEN = re.compile(r"[^\W\u2e80-\u9fff\uf900-\ufaff]+|\S")
# 256 permutations estimate a similarity of 0.8 with a standard error of 0.025. Candidates need one equal
# band, and rensa checks each of them; with 32 bands of 8 practically every pair at 0.8 is a candidate. (Its
# default number of bands found 9 of 42 near duplicates in the Python manual, this one 39.)
NUM_PERMUTATIONS = 256
NUM_BANDS = 32


def decode(data: bytes, source: str = "") -> str:
    """Decode a text file, called `source` in messages; raises ValueError for binary data. A guess is logged."""
    return data.decode(_encoding_of(data, source or "the input"))


def _encoding_of(data: bytes, source: str, offset: int = 0) -> str:
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        bad_offset = offset + error.start
    else:
        if "\0" in text:
            raise ValueError(_not_text(source, f"a NUL byte at offset {offset + data.index(0)}"))
        return encoding
    if encoding != "utf-8":
        what = f"{source} begins with a mark of {encoding} but is not valid {encoding}"
        raise ValueError(f"{what} from the byte at offset {bad_offset} on; save it as UTF-8")
    if 0 in data:
        raise ValueError(_not_text(source, f"a NUL byte at offset {offset + data.index(0)}"))
    control_bytes = len(data) - len(data.translate(None, CONTROL_BYTES))
    if control_bytes > MAX_CONTROL_SHARE * len(data):
        raise ValueError(_not_text(source, f"{control_bytes} control bytes among {len(data)}"))
    guess = _guess_encoding(data)
    if guess is None:
        what = f"the first byte that is not UTF-8 is at offset {bad_offset}"
        raise ValueError(f"{source} is in no encoding that can be recognized: {what}; save it as UTF-8")
    warning = "%s is not UTF-8 from the byte at offset %d on; read as %s. Save it as UTF-8 if that is wrong."
    logger.warning(warning, source, bad_offset, guess)
    return guess


def decode_lines(opened: BinaryIO, source: str) -> Iterator[str]:
    """Yield the lines of a text file in any encoding, decoded one at a time; raises ValueError as `decode`.

    The encoding of lines that are not UTF-8 is guessed from the first of them. If the file has more lines with UTF-8
    beyond ASCII, it is UTF-8 with broken lines: their bytes become surrogates.
    """
    buffered = io.BufferedReader(opened, 1 << 20)
    head = buffered.peek(4)
    mark = next((mark for mark in BYTE_ORDER_MARKS if head.startswith(mark)), b"")
    if mark and BYTE_ORDER_MARKS[mark] != "utf-8-sig":
        yield from io.TextIOWrapper(buffered, BYTE_ORDER_MARKS[mark], newline="\n")
        return
    if 0 in head:
        raise ValueError(_not_text(source, f"a NUL byte at offset {head.index(0)}"))
    offset = len(buffered.read(len(mark)))
    utf8 = 0
    for line in buffered:
        try:
            text = line.decode()
        except UnicodeDecodeError:
            break
        offset += len(line)
        utf8 += not text.isascii()
        yield text
    else:
        return
    ahead = [line, *islice(buffered, GUESS_LINES)]
    are_utf8 = [_fits(line, "utf-8") for line in ahead if not line.isascii()]
    broken = utf8 + sum(are_utf8) >= are_utf8.count(False)
    encoding = "utf-8" if broken else _encoding_of(b"".join(ahead), source, offset)
    for line in chain(ahead, buffered):
        yield line.decode() if _fits(line, "utf-8") else line.decode(encoding, "surrogateescape")


def _not_text(source: str, reason: str) -> str:
    return f"{source} is not text ({reason}); give a text, JSONL, CSV or Parquet file"


def _guess_encoding(data: bytes) -> str | None:
    # A few stray bytes are too little to tell a language by: in the Cornell movie dialogues they are 46
    # dashes among three million characters. The most likely is taken, and hardly anything lost if it is wrong.
    stray_bytes = len(data) - len(data.translate(None, bytes(range(128, 256))))
    if stray_bytes <= MAX_STRAY_SHARE * len(data):
        return "cp1252" if _fits(data, "cp1252") else "latin_1"
    # Only bytes beyond ASCII differ between encodings. A long file can have so few of them that
    # charset_normalizer, which samples, sees none.
    telling = b"".join(found.group() for found in islice(TELLING_BYTES.finditer(data), MAX_TELLING_PLACES))
    # Without a mark, two bytes a character are never right here: such text holds NUL bytes.
    matches = charset_normalizer.from_bytes(telling, cp_exclusion=["utf_16_be", "utf_16_le"])
    guesses = [match.encoding for match in matches]
    # charset_normalizer reads short French as the Baltic cp1257 ("déją") or the Central European cp1250 ("préfčre").
    # Far more text is in the Western cp1252, which is taken if it is nearly as good.
    if best := matches.best():
        good = [m for m in matches if m.chaos <= best.chaos + 0.15 and m.coherence >= best.coherence - 0.05]
        is_western = not NOT_WESTERN.search(telling.decode("cp1252", errors="replace"))
        if is_western and any("cp1252" in match.could_be_from_charset for match in good):
            guesses.insert(0, "cp1252")
    return next((guess for guess in guesses if _fits(data, guess)), None)


def _fits(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def drop_duplicates(texts: Sequence[str], threshold: float | None = 0.8) -> list[bool]:
    """Return which texts to keep: those that do not repeat an earlier one, word for word or nearly.

    Two texts are near duplicates if the sets of their shingles (runs of five lower-cased words or punctuation marks)
    have a Jaccard similarity of at least `threshold`, in (0, 1], estimated with MinHash and found by locality-sensitive
    hashing (Broder, 1997); None looks for none. In short texts one word matters, so they are only compared exactly.
    """
    if threshold is not None and not 0 < threshold <= 1:
        raise ValueError(f"threshold must be greater than 0 and at most 1, got {threshold}")
    deduplicator = rensa.RMinHashDeduplicator(threshold or 1, NUM_PERMUTATIONS, use_lsh=True, num_bands=NUM_BANDS)
    keep, seen = [], set()
    for index, text in enumerate(texts):
        is_new = text not in seen
        tokens = TOKEN.findall(text.lower()) if is_new and threshold is not None else []
        shingles = [" ".join(tokens[i : i + SHINGLE_TOKENS]) for i in range(len(tokens) - SHINGLE_TOKENS + 1)]
        keep.append(is_new and (not shingles or deduplicator.add_pairs([(str(index), shingles)])[0]))
        seen.add(text)
    return keep
