"""Markdown, reStructuredText and LaTeX stay as they are; their headings are those that a renderer shows."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import headings, read

page_of = pytest.importorskip("lxml.html").fromstring
markdown_it = pytest.importorskip("markdown_it")


def test_markdown_headings_are_those_outside_code_and_lists():
    text = (
        "# One\n\ntext\n\nTwo\nlines\n---\n\n```\n# no heading\n```\n### Three ###\n    # code\n#hashtag\n- item\n---\n"
        "<!-- \n# none\n-->\n\n> # quoted\n\na ```b\n# Four\n"
    )
    for end in ("\n", "\r\n", "\r"):
        document = read("a.md", text.replace("\n", end))
        assert document.text == text.replace("\n", end)
        assert headings(document) == [(1, "One"), (2, "Two lines"), (3, "Three"), (1, "Four")]
        assert [document.text[h.start] for h in document.headings] == ["#", "T", "#", "#"]
        assert document.title == "One"


LINES = [
    "# a", "b", "## c #", "===", "---", "", "```", "- d", "    # e", "> f", "~~~", "1. g", "<!--", "-->", "| h |",
    "***", "   # l", "\t# m",
]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(LINES), max_size=12), st.sampled_from(["\n", "\r\n"]))
def test_markdown_headings_are_those_of_the_rendered_page(lines, end):
    text = end.join([*lines, "x"])
    page = page_of(f"<body>{markdown_it.MarkdownIt('commonmark').render(text)}</body>")
    shown = [(int(h.tag[1]), " ".join(h.text_content().split())) for h in page if re.fullmatch("h[1-6]", str(h.tag))]
    document = read("a.md", text)
    assert headings(document) == [heading for heading in shown if heading[1]]
    assert all(" ".join(document.text[h.start :].lstrip(" #").split()).startswith(h.text) for h in document.headings)


def test_front_matter_is_metadata_and_no_heading():
    front = "---\ntitle: The title\nyear: 2001\nday: 2024-01-02\ntags: [a, b]\ndraft: false\nnot: .nan\n---\n"
    for end in ("\n", "\r\n"):
        text = (front + "# One\n\ntext").replace("\n", end)
        document = read("a.md", text)
        assert (document.text, document.title) == (text, "The title")
        assert document.metadata == {"type": "md", "year": 2001, "day": "2024-01-02", "draft": False}
        assert [(h.level, document.text[h.start : h.start + 5]) for h in document.headings] == [(1, "# One")]
    assert headings(read("a.md", "---\na: [\n---\n# One")) == [(1, "One")]
    assert headings(read("a.md", "---\n\n# One\n\n---\n")) == [(1, "One")]
    assert read("a.md", "---\na: " + "[" * 5_000 + "\n---\ntext").metadata == {"type": "md"}


def test_restructured_text_levels_are_in_the_order_of_their_styles():
    text = (
        "=====\nTitle\n=====\n\nPart\n====\n\ntext\n\nSub\n---\n\n.. include:: /etc/passwd\n\n.. _label:\n\n"
        "Other\n=====\n\na paragraph\nthat ends\n---------\n\n- item\n\n----\n\n* no\n====\n\n1. Yes\n=======\nbody\n\n"
        "a  b\n=  =\nc  d\n=  =\n"
    )
    for end in ("\n", "\r\n"):
        document = read("a.rst", text.replace("\n", end))
        assert headings(document) == [(1, "Title"), (2, "Part"), (3, "Sub"), (2, "Other"), (2, "1. Yes")]
        assert document.text == text.replace("\n", end)
        assert document.text[document.headings[3].start :].startswith("Other")


def test_latex_has_its_sections_and_title():
    text = (
        "\\documentclass{article}\n\\title{On \\emph{words}}\n% \\section{No}\n\\section{One}\\label{one}\ntext\n"
        "\\subsection*{Two $x_{1}$}\n\\section[short]{Three} % why\n\\paragraph{Four} goes on\n"
    )
    document = read("a.tex", text)
    assert document.text == text
    assert document.title == "On \\emph{words}"
    assert headings(document) == [(3, "One"), (4, "Two $x_{1}$"), (3, "Three")]


@pytest.mark.parametrize(
    "line", ["# a" + " " * 20_000 + "b\n", "<!--", "> ", "- ", "```\n", "[a](", "`", " ", "=\n", "---\n"]
)
@pytest.mark.parametrize("name", ["a.md", "a.rst", "a.tex"])
def test_hostile_sources_take_linear_time(name, line):
    text = line * (100_000 // len(line)) + "x"
    assert read(name, text).text == text
