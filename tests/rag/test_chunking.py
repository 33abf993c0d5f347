"""Chunks are parts of their document, to the character."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foliogpt.rag import Document, Heading
from foliogpt.rag.chunking import CONTEXT_TOKENS, MAX_CHARACTERS_PER_TOKEN, chunk_document

PIECES = ["word ", "Sentence. ", "Ends!\n", "\n\n", "\t", "日本語。", "é", "😀", "x" * 300, "# head\n", " ", "a.b_c "]


def token_starts(text: str) -> list[int]:
    return [found.start() for found in re.finditer(r"\w{1,6}|[^\w\s]", text)]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=120).map("".join), st.integers(1, 20), st.data())
def test_chunks_are_exact_spans_that_leave_nothing_out(text, size, data):
    starts = data.draw(st.lists(st.integers(0, max(len(text) - 1, 0)), max_size=6, unique=True))
    headings = tuple(Heading(start, data.draw(st.integers(1, 3)), "head") for start in sorted(starts))
    chunks = chunk_document(Document("name", text, headings=headings), token_starts, size)
    position = 0
    for chunk in chunks:
        assert text[chunk.start : chunk.end] == chunk.text == chunk.text.strip() != ""
        assert not text[position : chunk.start].strip()
        assert len(chunk.text) <= size * MAX_CHARACTERS_PER_TOKEN
        inside = [start for start in token_starts(text) if chunk.start <= start < chunk.end]
        assert len(inside) <= size
        position = chunk.end
    assert not text[position:].strip()


def test_a_text_is_cut_at_its_headings_then_paragraphs_then_sentences():
    section = "# {}\n\nOne two three. Four five.\n\nSix seven eight.\n\n"
    text = section.format("First") + section.format("Second")
    headings = (Heading(0, 1, "First"), Heading(text.index("# Second"), 1, "Second"))
    document = Document("name", text, headings=headings)
    whole = chunk_document(document, token_starts, 100)
    assert [chunk.text for chunk in whole] == [text.strip()]
    sections = chunk_document(document, token_starts, 20)
    assert [chunk.heading for chunk in sections] == ["First", "Second"]
    paragraphs = chunk_document(document, token_starts, 10)
    assert [chunk.text for chunk in paragraphs][:2] == ["# First\n\nOne two three. Four five.", "Six seven eight."]
    sentences = chunk_document(document, token_starts, 5)
    assert "One two three." in [chunk.text for chunk in sentences]


def test_a_chunk_knows_its_title_headings_and_page():
    text = "# Guide\n\nalpha beta\n\n## Part\n\n" + "gamma delta " * 30
    headings = (Heading(0, 1, "Guide"), Heading(text.index("## Part"), 2, "Part"))
    chunks = chunk_document(Document("n", text, "The Guide", {}, headings, (0, 60)), token_starts, 20)
    assert chunks[-1].heading == "Guide > Part"
    assert chunks[-1].embedded_text.startswith("The Guide\nGuide > Part\n")
    assert [chunk.page for chunk in (chunks[0], chunks[-1])] == [1, 2]
    assert "Guide" not in chunks[0].context.splitlines()[1:]


def test_a_long_title_leaves_room_for_the_text():
    chunk = chunk_document(Document("name", "text", "title " * 500), token_starts)[0]
    assert len(token_starts(chunk.context)) == CONTEXT_TOKENS


def test_the_same_text_under_another_title_is_embedded_again():
    first, second = (chunk_document(Document("name", "the same text", title), token_starts)[0] for title in "ab")
    assert first.text == second.text
    assert first.hash != second.hash


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_a_document_without_words_has_no_chunks(text):
    assert chunk_document(Document("name", text), token_starts) == []


def test_document_rejects_values_that_cannot_be_stored():
    for wrong in ({"name": " "}, {"text": "\ud800"}, {"text": "a\0b"}, {"text": 5}, {"metadata": {"document": "x"}}):
        with pytest.raises(ValueError, match=r"document|Metadata|has half a character|has a NUL"):
            Document(**{"name": "name", "text": "text", **wrong})
