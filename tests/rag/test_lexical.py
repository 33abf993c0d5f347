"""Search by words finds identifiers whole and in parts."""

import sqlite3

import pytest

from foliogpt.rag.lexical import MAX_TERMS, TOKENIZER, indexed_words, match_expression

TEXTS = [
    "json.decoder.JSONDecodeError is raised",
    "urllib.request.HTTPSHandler opens pages",
    "the skip_keys argument",
    "keys that one may skip",
    "a naïve café",
]


@pytest.fixture(scope="module")
def found():
    db = sqlite3.connect(":memory:")
    db.execute(f'CREATE VIRTUAL TABLE words USING fts5 (text, tokenize = "{TOKENIZER}")')
    db.executemany("INSERT INTO words (text) VALUES (?)", [[indexed_words(text)] for text in TEXTS])

    def search(query):
        expression = match_expression(query)
        rows = db.execute("SELECT rowid - 1 FROM words WHERE words MATCH ? ORDER BY bm25(words)", [expression])
        return [row for (row,) in rows]

    return search


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("JSONDecodeError", 0), ("decode error", 0), ("json", 0), ("json.decoder", 0), ("https handler", 1),
        ("HTTPSHandler", 1), ("urllib.request", 1), ("skip_keys", 2), ("opening a page", 1), ("CAFE", 4),
    ],
)  # fmt: skip
def test_identifiers_and_words_are_found(found, query, first):
    assert found(query)[0] == first


@pytest.mark.parametrize(
    "query", ['"', 'json" OR "café', "NEAR(a b)", "text:json", "a*", "-json", "^json", "(", "日本"]
)
def test_no_question_is_an_expression(found, query):
    assert match_expression(query) is None or isinstance(found(query), list)  # and no error of SQLite's syntax


def test_a_question_of_stop_words_alone_still_asks():
    assert match_expression("what is it") == '"what" OR "is" OR "it"'
    assert match_expression("what is json") == '"json"'
    assert match_expression("?! __ …") is None


def test_a_long_question_is_asked_by_its_first_words():
    assert match_expression(" ".join(f"w{n}" for n in range(5000))).count(" OR ") == MAX_TERMS - 1
