"""How the page shows an answer from documents."""

import pytest

from foliogpt.rag import Answer, Citation, Document, Passage, Sentence

pytest.importorskip("gradio")
documents = pytest.importorskip("foliogpt.scripts.app.documents")


def test_a_refusal_shows_the_nearest_passages_escaped_and_clickable():
    text = "A **video** has a <source> in it."
    passages = (Passage("page<1>", 0, len(text), text),)
    answer = Answer("", refused=True, reason="nothing & no one", passages=passages)
    html = documents.answer_html(answer, lambda name: Document(name, text))
    assert "No answer: nothing &amp; no one. The nearest passages" in html
    assert ">[1] page&lt;1&gt;: A video has a &lt;source&gt; in it.<" in html
    assert '<mark id="folio-citation-1">A **video** has a &lt;source&gt; in it.</mark>' in html
    bare = documents.answer_html(Answer("", refused=True, reason="nothing was found"), None)
    assert "No answer: nothing was found.<" in bare


def test_each_quotation_of_an_answer_has_its_number():
    text = "--all\n\nTakes all."
    parts = ('\n"--all" ', Citation("d", 0, 5, None, "--all"), ' "Takes all." ', Citation("d", 7, 17, 2, "Takes all."))
    answer = Answer('"--all" [1] "Takes all." [2]', parts[1::2], sentences=(Sentence(parts),))
    html = documents.answer_html(answer, lambda name: Document(name, text))
    assert html.count("folio-citation-2") == 3
    assert "[2] d, page 2: Takes all." in html
