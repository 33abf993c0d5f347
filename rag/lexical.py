"""Search by words: what SQLite's FTS5 is given to index, and what it is asked.

FTS5 cuts words at dots and underscores by itself and reduces English ones to their stems; identifiers in camelCase
are cut here. Source of the ranking: S. Robertson and H. Zaragoza, "The Probabilistic Relevance Framework: BM25 and
Beyond", 2009.
"""

import math
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing

TOKENIZER = "porter unicode61 remove_diacritics 2"
MAX_TERMS = 200  # of a question; more make it slow and no clearer

WORD = re.compile(r"\w+")
CAMEL = re.compile(r"[^\W\d_]*[a-z0-9][A-Z]\w*|[A-Z]{2,}[a-z]\w*")
CAMEL_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+")
# In nearly every text, so that they cost the most and tell the least.
STOP_WORDS = frozenset(
    WORD.findall(
        "a an and are as at be but by can do does for from has have how i if in into is it its of on or that the "
        "their then there these this to was were what when where which who why will with you"
    )
)


def indexed_words(text: str) -> str:
    """The text, and after it the parts of the identifiers in camelCase that it holds."""
    parts = [part for found in CAMEL.finditer(text) for part in CAMEL_PART.findall(found.group())]
    return f"{text}\n{' '.join(parts)}" if parts else text


def match_expression(query: str) -> str | None:
    """The question for FTS5: texts with any of its words. None if it has no word."""
    return " OR ".join(question_terms(query)) or None


def question_terms(query: str) -> list[str]:
    """The telling words of a question, each an expression for FTS5.

    Everything is quoted, so that no question is ever an FTS5 expression. "skip_keys" is asked for as a phrase and in
    parts.
    """
    terms: dict[str, None] = {}
    for found in WORD.finditer(query):
        word = found.group()
        terms[word.lower()] = None
        parts = word.split("_") + (CAMEL_PART.findall(word) if CAMEL.fullmatch(word) else [])
        terms |= {part.lower(): None for part in parts if part}
    telling = [term for term in terms if term not in STOP_WORDS] or list(terms)
    telling = [term for term in telling if term.strip("_")]
    return [f'"{term}"' for term in telling[:MAX_TERMS]]


def coverage(query: str, texts: Sequence[str]) -> list[float]:
    """The share of the question's words that each text has; a word counts more the fewer of the texts have it."""
    terms = question_terms(query)
    weights, found = [0.0] * len(texts), 0.0
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute(f'CREATE VIRTUAL TABLE words USING fts5 (text, tokenize = "{TOKENIZER}")')
        rows = [(number, indexed_words(text)) for number, text in enumerate(texts)]
        db.executemany("INSERT INTO words (rowid, text) VALUES (?, ?)", rows)
        for term in terms:
            having = db.execute("SELECT rowid FROM words WHERE words MATCH ?", [term]).fetchall()
            weight = rarity(len(having), len(texts))
            found += weight
            for (number,) in having:
                weights[number] += weight
    return [weight / found if found else 0.0 for weight in weights]


def rarity(frequency: int, total: int) -> float:
    """BM25's inverse document frequency of a word that is in `frequency` of `total` texts."""
    return math.log1p((total - frequency + 0.5) / (frequency + 0.5))
