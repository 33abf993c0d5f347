"""Search by words: what SQLite's FTS5 is given to index, and what it is asked.

A text is brought into one form and cut into terms here; FTS5 only splits them at spaces. Words are reduced to stems by
Snowball's rules for their script. Their first letters are terms too, by which inflected forms are found in any
language. Scripts without spaces, and Korean, are indexed by single characters and pairs of them.

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
QUOTED = '"{}"'  # a term for FTS5, of which no question can make another expression: terms have no quotation marks
MAX_TERMS = 200  # of a question; more make it slow and no clearer
FIRST_LETTERS, SHORTEST = 5, 4  # that a word has as a term; shorter words have none, and no likely spelling mistakes
FIRST = "…"  # ends a term that is a word's first letters; NFKC leaves none in a text

WORD = re.compile(r"\w+")
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
# A run of one script without spaces, a word of another, or a pictogram.
TOKEN = regex.compile(
    rf"(?V1)(?P<run>[[{UNSPACED}]&&[\p{{L}}\p{{N}}]][{UNSPACED}]*)"
    rf"|[[\p{{L}}\p{{N}}]--[{UNSPACED}]][[\p{{L}}\p{{M}}\p{{N}}]--[{UNSPACED}]]*"
    r"|\p{Extended_Pictographic}"
)
ASCII_WORD = re.compile("[a-z0-9]+")  # the same in a text without other signs, many times faster
# What a reader calls a character. In Thai and Lao a vowel may stand before its consonant, or behind it.
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
STEMMING = threading.Lock()  # a stemmer keeps the word in itself
SCRIPT = regex.compile("|".join(rf"(?P<{script}>\p{{{script}}})" for script in STEMMERS))

CAMEL = re.compile(r"[^\W\d_]*[a-z0-9][A-Z]\w*|[A-Z]{2,}[a-z]\w*")
CAMEL_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+")
# In nearly every text, so that they cost the most and tell the least.
STOP_WORDS = frozenset(
    WORD.findall(
        "a an and are as at be but by can do does for from has have how i if in into is it its of on or that the "
        "their then there these this to was were what when where which who why will with you"
    )
)
ENGLISH = frozenset(WORD.findall("the and what which how that are with does did who when why"))  # and not of others


def spelled(text: str) -> str:
    """The text in Unicode's compatible form, without signs that nobody sees."""
    return text if text.isascii() else unicodedata.normalize("NFKC", INVISIBLE.sub("", text))


def folded(text: str) -> str:
    """A spelled text without differences of case and between the digits of scripts."""
    if text.isascii():
        return text.lower()
    text = DIGIT.sub(lambda found: str(unicodedata.digit(found.group())), text.casefold())
    return unicodedata.normalize("NFKC", text)


def indexed_words(text: str) -> str:
    """The terms of a text, and after them those of the parts of identifiers and of words that a line's end divides."""
    text = spelled(text)
    camel = [part for found in CAMEL.finditer(text) for part in CAMEL_PART.findall(found.group())]
    whole = ["".join(parts) for parts in LINE_END_HYPHEN.findall(text)]
    terms = list(_terms(" ".join([text, *camel, *whole]), is_asked=False))
    return " ".join([*(term for term, _ in terms), *(first for _, first in terms if first)])


def match_expression(query: str, similar: Callable[[Iterable[str]], Iterable[str]] = lambda terms: ()) -> str | None:
    """The question for FTS5: any of its words, their first letters, and what is `similar`. None if it has no word."""
    asked = _question(query)
    # Porter's stems are made for English, where first letters find more of other words.
    is_english = not ENGLISH.isdisjoint(WORD.findall(query.lower()))
    first_letters = [] if is_english else [first for first in asked.values() if first]
    return " OR ".join(map(QUOTED.format, dict.fromkeys([*asked, *first_letters, *similar(asked)]))) or None


def question_terms(query: str) -> list[str]:
    """The telling words of a question, each an expression for FTS5."""
    return list(map(QUOTED.format, _question(query)))


def _question(query: str) -> dict[str, str]:
    """The telling terms of a question, each with its first letters. "skip_keys" is a phrase and its parts."""
    telling: dict[str, str] = {}
    others: dict[str, str] = {}
    for found in VISIBLE.finditer(spelled(query)):
        word = found.group()
        camel = CAMEL_PART.findall(word) if CAMEL.fullmatch(word) else []
        terms = list(_terms(word, is_asked=True))
        phrase = [(" ".join(term for term, _ in terms), "")] if "_" in word.strip("_") else []
        parts = [term for part in camel for term in _terms(part, is_asked=True)]
        (others if folded(word) in STOP_WORDS else telling).update([*phrase, *terms, *parts])
    return dict(list((telling or others).items())[:MAX_TERMS])


def _terms(text: str, is_asked: bool) -> Iterator[tuple[str, str]]:
    """The terms of a spelled text in order, each with its first letters, or "" if it has none."""
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
    """The stem of a word, and the word's first letters."""
    plain = _without_accents(word)
    script = SCRIPT.match(word)
    if script is None:
        return plain, ""
    name = str(script.lastgroup)
    stem = plain
    if len(word) > 2:  # "us" is no plural
        with STEMMING:
            stem = _without_accents(_stemmer(name).stemWord(plain if name == "Latin" else word))
    return stem, f"{plain[:FIRST_LETTERS]}{FIRST}" if len(plain) >= SHORTEST else ""


def _without_accents(word: str) -> str:
    """Without the marks that readers may leave out: accents, and vowels of Hebrew and Arabic, not those of Hindi."""
    if word.isascii():
        return word
    signs = unicodedata.normalize("NFD", word)
    kept = [sign for sign in signs if not (10 <= (kind := unicodedata.combining(sign)) < 36 or kind > 200)]
    return unicodedata.normalize("NFC", "".join(kept))


@cache
def _stemmer(script: str):
    """Snowball in Python for a script: its C version, if it is installed, may have other rules."""
    with extra("rag", "Search by words"):
        module = importlib.import_module(f"snowballstemmer.{STEMMERS[script]}_stemmer")
    return getattr(module, f"{STEMMERS[script].title()}Stemmer")()


def coverage(query: str, texts: Sequence[str]) -> list[float]:
    """The share of the question's words that each text has; a word counts more the fewer of the texts have it."""
    indexed = [f" {indexed_words(text)} " for text in texts]
    shares, total = [0.0] * len(texts), 0.0
    for term in _question(query):
        having = [f" {term} " in terms for terms in indexed]
        weight = rarity(sum(having), len(texts))
        total += weight
        shares = [share + weight * has for share, has in zip(shares, having, strict=True)]
    return [share / total if total else 0.0 for share in shares]


def rarity(frequency: int, total: int) -> float:
    """BM25's inverse document frequency of a word that is in `frequency` of `total` texts."""
    return math.log1p((total - frequency + 0.5) / (frequency + 0.5))
