"""Valid citations in a model's text."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from foliogpt.rag import Citation, Passage
from foliogpt.rag.citations import SentenceSplitter, verified

SOURCES = [
    Passage(
        "a", 100, 168, 'Serialize ``obj`` to\n  a JSON "formatted" str. If skipkeys is true, skip.', pages=(0, 110)
    ),
    Passage("b", 7, 31, "Red wine [1] of x[0] now"),
]


def text_of(sentence) -> str:
    return "".join(f"[{part.document}]" if isinstance(part, Citation) else part for part in sentence.parts)


@pytest.mark.parametrize(
    ("text", "says", "quotes"),
    [
        ('It is "a JSON" [1].', 'It is "a JSON" [a].', ["a JSON"]),
        # Lines are broken elsewhere; the quotation is the document's own.
        ('"Serialize ``obj`` to a JSON" [1]', '"Serialize ``obj`` to a JSON" [a]', ["Serialize ``obj`` to\n  a JSON"]),
        ('“a JSON "formatted" str.”[1]', '"a JSON "formatted" str." [a]', ['a JSON "formatted" str.']),
        ('Say "Red wine," [2] and more.', 'Say "Red wine", [b] and more.', ["Red wine"]),
        ("If skipkeys is true, skip. [1]", "If skipkeys is true, skip. [a]", ["If skipkeys is true, skip"]),
        ('See "Red wine [1] of x[0]" [2].', 'See "Red wine [1] of x[0]" [b].', ["Red wine [1] of x[0]"]),
        ('"a JSON" [1] and "Red wine" [2]', '"a JSON" [a] and "Red wine" [b]', ["a JSON", "Red wine"]),
        ('"a JSON" [1] and "white wine" [2]', '"a JSON" [a] and white wine', ["a JSON"]),
        ('"serialize ``obj``" [1].', '"Serialize ``obj``" [a].', ["Serialize ``obj``"]),  # as the source has it
        ('"serialise ``obj``" [1].', "serialise ``obj``.", []),  # not letter for letter
        ('"Serial" [1]', "Serial", []),  # not a word of it
        ('"to" [1]', "to", []),  # shows nothing
        ('"a JSON" [2] "a JSON" [3] "a JSON" [0]', "a JSON a JSON a JSON", []),
        ("It is JSON [1].", "It is JSON.", []),  # no quotation
        (f'Well "" [1] [1][2] [{"9" * 5000}]', "Well ", []),
        ("no mark at all", "no mark at all", []),
    ],
)
def test_a_citation_counts_if_its_source_has_the_words(text, says, quotes):
    sentence = verified(text, SOURCES)
    assert text_of(sentence) == says
    assert [citation.quote for citation in sentence.citations] == quotes
    assert sentence.is_cited == bool(quotes)


def test_a_citation_says_where_and_on_which_page():
    (first,) = verified('"a JSON" [1]', SOURCES).citations
    assert first == Citation("a", 123, 129, 2, "a JSON")
    (second,) = verified('"Serialize" [1]', SOURCES).citations
    assert (second.start, second.page) == (100, 1)


WORDS = ['"', "“", "”", " ", "\n", ".", "[1]", "[2]", "[9]", "[", "a JSON", "Red wine", "obj", "true, skip", "ß", "to"]


@given(st.lists(st.sampled_from([*WORDS, "1]"]), max_size=40).map("".join))
@example('He said [[7]1] "ok".')
@example('"[1]"[2]')
def test_no_text_has_a_citation_that_does_not_hold(text):
    sentence = verified(text, SOURCES)
    own = [part for part in sentence.parts if not isinstance(part, Citation)]
    for citation in sentence.citations:
        source = next(source for source in SOURCES if source.document == citation.document)
        assert source.text[citation.start - source.start : citation.end - source.start] == citation.quote
    runs = "".join(part if isinstance(part, str) else "\n\n" for part in sentence.parts).split("\n\n")
    assert not [run for run in runs if re.search(r"\[\d+\]", run)]
    if not sentence.citations:
        assert "[1]" not in "".join(own)


@given(st.lists(st.sampled_from([*WORDS, "A", "e.g. "]), max_size=60), st.integers(1, 5))
def test_sentences_do_not_depend_on_the_pieces_and_lose_nothing(words, size):
    text = "".join(words)

    def cut(size: int) -> list[str]:
        sentences = SentenceSplitter()
        found = [each for i in range(0, len(text), size) for each in sentences.push(text[i : i + size])]
        return found + sentences.flush()

    assert cut(size) == cut(1) == cut(len(text) or 1)
    assert "".join(cut(size)).rstrip() == text.rstrip()


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! [1] Three?", ["One.", " Two! [1]", " Three?"]),
        ('It is so. "One. Two." [1] "Three" [2] Four.', ['It is so. "One. Two." [1]', ' "Three" [2]', " Four."]),
        ("See e.g. this. And\n- one\n- two", ["See e.g. this.", " And", "\n- one", "\n- two"]),
        ('As "one"\n[1] and "two\nthree" [2].\n\nEnd', ['As "one"\n[1] and "two\nthree" [2].', "\n\nEnd"]),
    ],
)
def test_a_sentence_has_its_citations(text, sentences):
    cutter = SentenceSplitter()
    assert cutter.push(text) + cutter.flush() == sentences
