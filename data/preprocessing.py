"""Raw files to texts, and texts that repeat others: decoding, and finding duplicates.

What else can be done to text before training is in `cleaning`.
"""

import codecs
import logging
import re
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import charset_normalizer
import rensa

logger = logging.getLogger(__name__)

# UTF-32 comes first: the UTF-16 mark is the beginning of the UTF-32 one.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# The bytes below 32 that text does not hold: all but \a \b \t \n \v \f \r and escape, as in file(1).
CONTROL_BYTES = bytes(set(range(32)) - {7, 8, 9, 10, 11, 12, 13, 27})
# A compressed stream has about a tenth of them; a hundredth leaves room for a stray one in old text.
MAX_CONTROL_SHARE = 0.01
# Places with bytes above 127 and their surroundings; a thousand of them are enough for a guess.
TELLING_BYTES = re.compile(rb"[\x00-\x7f]{0,80}[\x80-\xff]+[\x00-\x7f]{0,80}")
MAX_TELLING_PLACES = 1000
MAX_STRAY_SHARE = 0.001

SHINGLE_TOKENS = 5
# Chinese and Japanese put no spaces between words, so each of their characters is a token; so is each
# punctuation mark, without which "a + b" would equal "a - b".
TOKEN = re.compile(r"[^\W\u2e80-\u9fff\uf900-\ufaff]+|\S")
# 256 permutations estimate a similarity of 0.8 with a standard error of 0.025. Candidates need one equal
# band, and rensa checks each of them; with 32 bands of 8 practically every pair at 0.8 is a candidate. (Its
# default number of bands found 9 of 42 near duplicates in the Python manual, this one 39.)
NUM_PERMUTATIONS = 256
NUM_BANDS = 32


class Decoded(NamedTuple):
    """A text, the encoding it was in, and the offset of the first byte that is not UTF-8, if there is one."""

    text: str
    encoding: str
    bad_offset: int | None


def decode(data: bytes, source: str = "") -> str:
    """Turn the bytes of a text file into text, whatever its encoding; see `decode_and_tell`."""
    return decode_and_tell(data, source).text


def decode_and_tell(data: bytes, source: str = "") -> Decoded:
    """Turn the bytes of a text file into text, and say which encoding that took.

    UTF-8, with or without a byte order mark, is tried first, then UTF-16 and UTF-32 by their marks. Failing
    these the encoding is guessed, and the guess is logged, because it can be wrong.

    Args:
        data: the whole file.
        source: what the bytes are called in messages, usually the path.

    Raises:
        ValueError: the data is binary, or no encoding fits. The message is one line.
    """
    source = source or "the input"
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        first_bad_byte = error.start
    else:
        if "\0" in text:
            raise ValueError(_not_text(source, f"a NUL byte at offset {data.index(0)}"))
        return Decoded(text, encoding, None)

    if encoding != "utf-8":
        raise ValueError(
            f"{source} begins with a mark of {encoding} but is not valid {encoding} from the byte at offset "
            f"{first_bad_byte} on; save it as UTF-8"
        )
    if 0 in data:
        raise ValueError(_not_text(source, f"a NUL byte at offset {data.index(0)}"))
    control_bytes = len(data) - len(data.translate(None, CONTROL_BYTES))
    if control_bytes > MAX_CONTROL_SHARE * len(data):
        raise ValueError(_not_text(source, f"{control_bytes} control bytes among {len(data)}"))

    guess = _guess_encoding(data)
    if guess is None:
        raise ValueError(
            f"{source} is in no encoding that can be recognised: the first byte that is not UTF-8 is at "
            f"offset {first_bad_byte}; save it as UTF-8"
        )
    logger.warning(
        "%s is not UTF-8 from the byte at offset %d on; read as %s. Save it as UTF-8 if that is wrong.",
        source,
        first_bad_byte,
        guess,
    )
    return Decoded(data.decode(guess), guess, first_bad_byte)


def _not_text(source: str, reason: str) -> str:
    return f"{source} is not text ({reason}); give a text, JSONL, CSV or Parquet file"


def _guess_encoding(data: bytes) -> str | None:
    # A few stray bytes are too little to tell a language by: in the Cornell movie dialogues they are 46
    # dashes among three million characters. The likeliest is taken, and hardly anything lost if it is wrong.
    stray_bytes = len(data) - len(data.translate(None, bytes(range(128, 256))))
    if stray_bytes <= MAX_STRAY_SHARE * len(data):
        return "cp1252" if _fits(data, "cp1252") else "latin_1"
    # Only what is not ASCII tells encodings apart. In a long file there can be so little of it that
    # charset_normalizer, which samples, sees none.
    telling = b"".join(found.group() for found in islice(TELLING_BYTES.finditer(data), MAX_TELLING_PLACES))
    # Without a mark, two bytes a character are never right here: such text holds NUL bytes.
    matches = charset_normalizer.from_bytes(telling, cp_exclusion=["utf_16_be", "utf_16_le"])
    guesses = [match.encoding for match in matches]
    # Of equally good guesses charset_normalizer takes the first in the alphabet, which reads
    # French as the Central European cp1250 ("préfčre"); far more text is in the Western cp1252.
    if best := matches.best():
        tied = [match for match in matches if (match.chaos, match.coherence) == (best.chaos, best.coherence)]
        if any("cp1252" in match.could_be_from_charset for match in tied):
            guesses.insert(0, "cp1252")
    return next((guess for guess in guesses if _fits(data, guess)), None)


def _fits(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


class Deduplication(NamedTuple):
    """Which texts to keep, and how many were dropped for which reason."""

    keep: list[bool]
    exact: int
    near: int


def drop_duplicates(texts: Sequence[str], threshold: float = 0.8) -> Deduplication:
    """Find the texts that repeat an earlier one, word for word or nearly.

    Two texts are near duplicates if the sets of their shingles (runs of five lower-cased words or punctuation
    marks) have a Jaccard similarity of at least `threshold`, estimated with MinHash and found with
    locality-sensitive hashing. The first text of a group is kept, so the result is deterministic. Texts
    shorter than a shingle are only compared exactly; for somewhat longer ones one different word in the
    middle is enough to be kept, because in a short text it usually changes the meaning.

    Source: A. Broder, "On the resemblance and containment of documents", 1997.

    Args:
        texts: the texts, in order of preference.
        threshold: in (0, 1]; lower drops more.

    Raises:
        ValueError: `threshold` is out of range.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be greater than 0 and at most 1, got {threshold}")
    first_seen: dict[str, int] = {}
    for index, text in enumerate(texts):
        first_seen.setdefault(text, index)
    distinct = list(first_seen.values())

    deduplicator = rensa.RMinHashDeduplicator(  # pyright: ignore[reportAttributeAccessIssue] (has no stubs)
        threshold, NUM_PERMUTATIONS, use_lsh=True, num_bands=NUM_BANDS
    )
    keep = [False] * len(texts)
    near = 0
    for index in distinct:
        shingles = _shingles(texts[index])
        keep[index] = not shingles or deduplicator.add_pairs([(str(index), shingles)])[0]
        near += not keep[index]
    return Deduplication(keep, exact=len(texts) - len(distinct), near=near)


def _shingles(text: str) -> list[str]:
    tokens = TOKEN.findall(text.lower())
    return [" ".join(tokens[i : i + SHINGLE_TOKENS]) for i in range(len(tokens) - SHINGLE_TOKENS + 1)]
