"""Search by words: the terms of texts and questions for SQLite's FTS5, which only splits them at spaces.

Words are reduced to stems by Snowball's rules for their script. Their first letters are terms too, which find inflected
forms in any language. Scripts without spaces, and Korean, are indexed by single characters and pairs of them.

Sources: the ranking, S. Robertson and H. Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009;
first letters, F. Can et al., "Information retrieval on Turkish texts", 2008.
"""

import importlib
import math
import re
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, lru_cache
from itertools import pairwise

import regex

from ..jobs.extras import extra

TOKENIZER = "ascii"
QUOTED = '"{}"'  # a term for FTS5, which no question can turn into another expression: terms have no quotation marks
MAX_TERMS = 200  # of a question; more make it slow and no clearer
FIRST_LETTERS, SHORTEST = 5, 4  # letters of the term; words that are shorter have none, and are not corrected
FIRST = "…"  # ends a term of first letters; NFKC leaves none in a text

WORD = re.compile(r"\w+")
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
# A run of one script without spaces, a word of another, or a pictogram.
TOKEN = regex.compile(
    rf"(?V1)(?P<run>[[{UNSPACED}]&&[\p{{L}}\p{{N}}]][{UNSPACED}]*)"
    rf"|[[\p{{L}}\p{{N}}]--[{UNSPACED}]][[\p{{L}}\p{{M}}\p{{N}}]--[{UNSPACED}]]*"
    r"|\p{Extended_Pictographic}"
)
ASCII_WORD = re.compile("[a-z0-9]+")  # the same in an ASCII text, many times faster
# A character as readers count them. In Thai and Lao a vowel may be before its consonant, or after it.
CHARACTER = regex.compile(r"[เ-ไເ-ໄ]?\X[ะาๅະາ]?")
LETTER = regex.compile(r"[\p{L}\p{M}]")
UNSPACED_LETTER = regex.compile(rf"[{UNSPACED}]")
VISIBLE = regex.compile(r"[\w\p{M}]+|\p{Extended_Pictographic}")
INVISIBLE = regex.compile(r"\p{Cf}+")  # soft hyphens, joiners, directions
DIGIT = regex.compile(r"(?V1)[\p{Nd}--[0-9]]")
LINE_END_HYPHEN = regex.compile(r"(\p{L}[\p{L}\p{M}]*)-\n\s*(\p{L}[\p{L}\p{M}]*)")
STEMMERS = {
    "Latin": "porter", "Cyrillic": "russian", "Greek": "greek", "Arabic": "arabic", "Devanagari": "hindi",
    "Armenian": "armenian", "Tamil": "tamil",
}  # fmt: skip
STEMMING = threading.Lock()  # stemmers store the word as their state
SCRIPT = regex.compile("|".join(rf"(?P<{script}>\p{{{script}}})" for script in STEMMERS))

CAMEL = re.compile(r"[^\W\d_]*[a-z0-9][A-Z]\w*|[A-Z]{2,}[a-z]\w*")
CAMEL_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+")
# In nearly every text, so that they are slow to search and distinguish little.
STOP_WORDS = frozenset(
    WORD.findall("""a an and are as at be but by can do does for from has have how i if in into is it its of on or that
    the their then there these this to was were what when where which who why will with you""")
)
ENGLISH = frozenset(WORD.findall("the and what which how that are with does did who when why"))  # in no other language


def spelled(text: str) -> str:
    """Return the text in Unicode's compatible form, without invisible characters."""
    return text if text.isascii() else unicodedata.normalize("NFKC", INVISIBLE.sub("", text))


def folded(text: str) -> str:
    """Return a spelled text without differences of case and between the digits of scripts."""
    if text.isascii():
        return text.lower()
    text = DIGIT.sub(lambda found: str(unicodedata.digit(found.group())), text.casefold())
    return unicodedata.normalize("NFKC", text)


def indexed_words(text: str) -> str:
    """Return the terms of a text, then those of parts of identifiers and of hyphenated words."""
    text = spelled(text)
    camel = [part for found in CAMEL.finditer(text) for part in CAMEL_PART.findall(found.group())]
    whole = ["".join(parts) for parts in LINE_END_HYPHEN.findall(text)]
    terms = list(_terms(" ".join([text, *camel, *whole]), is_asked=False))
    return " ".join([*(term for term, _ in terms), *(first for _, first in terms if first)])


def match_expression(query: str, similar: Callable[[Iterable[str]], Iterable[str]] = lambda terms: ()) -> str | None:
    """Return FTS5's expression for any of a question's words, their first letters, and `similar` ones, or None."""
    asked = _question(query)
    # Porter's stems suffice for English, where first letters mostly find other words.
    is_english = not ENGLISH.isdisjoint(WORD.findall(query.lower()))
    first_letters = [] if is_english else [first for first in asked.values() if first]
    return " OR ".join(map(QUOTED.format, dict.fromkeys([*asked, *first_letters, *similar(asked)]))) or None


def question_terms(query: str) -> list[str]:
    """Return the words of a question without stop words, each an expression for FTS5."""
    return list(map(QUOTED.format, _question(query)))


def _question(query: str) -> dict[str, str]:
    """Return the terms of a question without stop words, each with its first letters. "skip_keys" is also a phrase."""
    content: dict[str, str] = {}
    stop_words: dict[str, str] = {}
    for found in VISIBLE.finditer(spelled(query)):
        word = found.group()
        camel = CAMEL_PART.findall(word) if CAMEL.fullmatch(word) else []
        terms = list(_terms(word, is_asked=True))
        phrase = [(" ".join(term for term, _ in terms), "")] if "_" in word.strip("_") else []
        parts = [term for part in camel for term in _terms(part, is_asked=True)]
        (stop_words if folded(word) in STOP_WORDS else content).update([*phrase, *terms, *parts])
    return dict(list((content or stop_words).items())[:MAX_TERMS])


def _terms(text: str, is_asked: bool) -> Iterator[tuple[str, str]]:
    """Yield the terms of a spelled text in order, each with its first letters, or "" if it has none."""
    if text.isascii():
        yield from map(_word, ASCII_WORD.findall(text.lower()))
        return
    for found in TOKEN.finditer(folded(text)):
        if found["run"] is None:
            yield _word(found.group())
            continue
        characters = CHARACTER.findall(found.group())
        if not is_asked or len(characters) == 1:
            yield from ((character, "") for character in characters)
        yield from (("".join(pair), "") for pair in pairwise(characters))


@lru_cache(1 << 16)
def _word(word: str) -> tuple[str, str]:
    """Return the stem of a word, and the word's first letters."""
    stem = plain = _without_accents(word)
    script = SCRIPT.match(word)
    if script is None:
        return plain, ""
    name = str(script.lastgroup)
    if len(word) > 2:  # "us" is no plural
        with STEMMING:
            stem = _without_accents(_stemmer(name).stemWord(plain if name == "Latin" else word))
    return stem, f"{plain[:FIRST_LETTERS]}{FIRST}" if len(plain) >= SHORTEST else ""


def _without_accents(word: str) -> str:
    """Remove the optional marks of a word: accents, and vowels of Hebrew and Arabic, but not those of Hindi."""
    signs = unicodedata.normalize("NFD", word)
    kept = [sign for sign in signs if not (10 <= (kind := unicodedata.combining(sign)) < 36 or kind > 200)]
    return unicodedata.normalize("NFC", "".join(kept))


@cache
def _stemmer(script: str):
    """Return Snowball's stemmer of a script, in Python, as an installed C version may have other rules."""
    with extra("rag", "Search by words"):
        module = importlib.import_module(f"snowballstemmer.{STEMMERS[script]}_stemmer")
    return getattr(module, f"{STEMMERS[script].title()}Stemmer")()


def coverage(query: str, texts: Sequence[str]) -> list[float]:
    """Return the share of the question's words, weighted by rarity among the texts, that each text has."""
    indexed = [f" {indexed_words(text)} " for text in texts]
    shares, total = [0.0] * len(texts), 0.0
    for term in _question(query):
        having = [f" {term} " in terms for terms in indexed]
        weight = rarity(sum(having), len(texts))
        total += weight
        shares = [share + weight * has for share, has in zip(shares, having, strict=True)]
    return [share / total if total else 0.0 for share in shares]


def rarity(frequency: int, total: int) -> float:
    """Compute BM25's inverse document frequency of a word that `frequency` of `total` texts have."""
    return math.log1p((total - frequency + 0.5) / (frequency + 0.5))
