"""Search by words finds words of any script and spelling, and identifiers complete and in parts."""

import sqlite3
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from foliogpt.rag.lexical import MAX_TERMS, TOKENIZER, coverage, indexed_words, match_expression, question_terms

TEXTS = [
    "json.decoder.JSONDecodeError is raised",
    "urllib.request.HTTPSHandler opens pages",
    "the skip_keys argument",
    "keys that one may skip",
    "a naïve café",
    "中国的人口超过十三亿。水很重要",
    "हिंदी में किताबें पढ़ी जाती हैं, सन १९४७",
    "ประเทศไทยมีประชากรมาก",
    "Die Häuser der Städte",
    "The report is misﬁled in an of\u00adfice, in a well-\nknown inter-\nesting ＣＡＳＥ 🎉",
    "Книги читают в библиотеках",
]


def index_of(texts):
    db = sqlite3.connect(":memory:", check_same_thread=False)
    db.execute(f'CREATE VIRTUAL TABLE words USING fts5 (text, tokenize = "{TOKENIZER}")')
    db.executemany("INSERT INTO words (text) VALUES (?)", [[indexed_words(text)] for text in texts])

    def search(query):
        expression = match_expression(query)
        rows = db.execute("SELECT rowid - 1 FROM words WHERE words MATCH ? ORDER BY bm25(words)", [expression])
        return [row for (row,) in rows]

    return search


@pytest.fixture(scope="module")
def found():
    return index_of(TEXTS)


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("JSONDecodeError", 0), ("decode error", 0), ("json", 0), ("json.decoder", 0), ("https handler", 1),
        ("HTTPSHandler", 1), ("urllib.request", 1), ("skip_keys", 2), ("opening a page", 1), ("CAFE", 4),
        ("人口有多少", 5), ("水", 5), ("किताब", 6), ("1947", 6), ("ประชากร", 7), ("Haus in der Stadt", 8),
        ("misfiled", 9), ("office", 9), ("known", 9), ("well-known", 9), ("interesting", 9), ("case", 9), ("🎉", 9),
        ("книга", 10), ("БИБЛИОТЕКА", 10),
    ],
)  # fmt: skip
def test_identifiers_and_words_are_found(found, query, first):
    assert found(query)[0] == first


@pytest.mark.parametrize(
    "query", ['"', 'json" OR "café', "NEAR(a b)", "text:json", "a*", "-json", "^json", "(", "日本", "＂json＂", "…"]
)
def test_no_question_is_an_expression(found, query):
    assert match_expression(query) is None or isinstance(found(query), list)  # and no error of SQLite's syntax


def test_a_question_of_stop_words_alone_still_asks():
    assert match_expression("what is it") == '"what" OR "is" OR "it"'
    assert match_expression("what is json") == '"json"'
    assert match_expression("?! __ …") is None


def test_first_letters_are_asked_for_unless_the_question_is_english():
    assert match_expression("Bücher ordnen") == '"bucher" OR "ordnen" OR "buche…" OR "ordne…"'
    assert match_expression("the books") == '"book"'


def test_a_long_question_is_asked_by_its_first_words():
    assert match_expression(" ".join(f"{n}" for n in range(5000))).count(" OR ") == MAX_TERMS - 1


SCRIPTS = [
    "Latin", "Greek", "Cyrillic", "Armenian", "Hebrew", "Arabic", "Devanagari", "Bengali", "Tamil", "Telugu", "Thai",
    "Lao", "Khmer", "Myanmar", "Georgian", "Hangul", "Han", "Hiragana", "Katakana", "Ethiopic", "Tibetan", "Sinhala",
    "Gujarati", "Malayalam",
]  # fmt: skip
WORDS = ["skip_keys", "naïve", "JSONDecodeError", "café", "中国"]
LETTERS = {
    name: [chr(c) for c in range(0x3100) if regex.match(rf"\p{{{name}}}", chr(c)) and chr(c).isalpha()]
    or [chr(c) for c in range(0x4E00, 0xD7A4) if regex.match(rf"\p{{{name}}}", chr(c)) and chr(c).isalpha()]
    for name in SCRIPTS
}
MARKS = {
    name: [chr(c) for c in range(0x300, 0x1A00) if regex.match(rf"(?V1)[\p{{{name}}}&&\p{{M}}]", chr(c))]
    for name in SCRIPTS
}


@st.composite
def words(draw):
    """A word of one script as its readers would write it: letters, each perhaps with a mark of the script."""
    name = draw(st.sampled_from(SCRIPTS))
    letters = st.sampled_from(LETTERS[name])
    marks = st.sampled_from(["", *MARKS[name]])
    return "".join(letter + mark for letter, mark in draw(st.lists(st.tuples(letters, marks), min_size=1, max_size=8)))


@settings(max_examples=40, deadline=None)
@given(before=words(), word=words(), after=words(), space=st.sampled_from([" ", "\n", ", ", "。", " — "]))
def test_whatever_the_script_a_word_of_a_text_is_found_by_itself(before, word, after, space):
    text = f"{before}{space}{word}{space}{after}"
    assert index_of([text])(word) == [0], [indexed_words(text), match_expression(word)]


@settings(max_examples=40, deadline=None)
@given(st.text(alphabet=LETTERS["Han"] + LETTERS["Katakana"], min_size=1, max_size=12), st.data())
def test_in_scripts_without_spaces_each_part_of_a_line_is_found(line, data):
    start = data.draw(st.integers(0, len(line) - 1))
    end = data.draw(st.integers(start + 1, len(line)))
    assert index_of([line])(line[start:end]) == [0]


@settings(max_examples=40, deadline=None)
@given(st.lists(words(), min_size=1, max_size=5), st.data())
def test_forms_of_the_same_text_have_the_same_terms(parts, data):
    text = " ".join(parts)
    expected = indexed_words(text).split()
    assert indexed_words(unicodedata.normalize("NFD", text)).split() == expected
    assert indexed_words(unicodedata.normalize("NFC", text)).split() == expected
    at = data.draw(st.integers(0, len(text)))
    assert indexed_words(f"{text[:at]}\u00ad{text[at:]}").split() == expected


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(words() | st.sampled_from(WORDS), min_size=1, max_size=4), max_size=4))
def test_coverage_says_of_each_text_what_the_index_finds(texts):
    texts = [" ".join(text) for text in texts]
    for text in texts[:1]:
        db = sqlite3.connect(":memory:")
        db.execute(f'CREATE VIRTUAL TABLE words USING fts5 (text, tokenize = "{TOKENIZER}")')
        db.executemany("INSERT INTO words VALUES (?)", [[indexed_words(other)] for other in texts])
        terms = question_terms(text)
        having = {row for term in terms for (row,) in db.execute("SELECT rowid FROM words WHERE words MATCH ?", [term])}
        shares = coverage(text, texts)
        assert {number + 1 for number, share in enumerate(shares) if share} == having
        assert shares[0] == pytest.approx(1) or not terms


def test_stems_are_the_same_in_many_threads():
    """Snowball's stemmers store the word as their state."""
    russian = ["книгами", "библиотеками", "читателями", "городами", "столицами", "историями", "государствами"]
    texts = [" ".join(f"{word}{n}" if n % 2 else word for word in russian) + f" {n}" for n in range(400)]
    sys.setswitchinterval(1e-6)
    try:
        from foliogpt.rag import lexical

        lexical._word.cache_clear()
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(indexed_words, texts))
    finally:
        sys.setswitchinterval(0.005)
    lexical._word.cache_clear()
    assert together == [indexed_words(text) for text in texts]
