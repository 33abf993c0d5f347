"""The page shows Markdown with what is cited marked, and never its fences, HTML or addresses."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("markdown_it", reason="needs the extra rag")

from foliogpt.rag.quotations import shown
from foliogpt.scripts.app.markdown import marked_markdown

PAGES = sorted((Path(__file__).parents[2] / "docs").glob("*.md"))
HOSTILE = (
    "<img src=x onerror=alert(1)> [x](javascript:alert(1)) ![y](http://evil.example/y.png) <http://evil.example> "
    '</div><script>alert(1)</script> <b onclick="alert(1)">z</b>'
)
BLOCK = re.compile(r"^(```|~~~)[\s\S]*?^\1$|^\|.*$|^(?!\||```)\S.*(?:\n(?!\||```|[-*] |\d+\. |#)\S.*)*", re.MULTILINE)
FENCE = re.compile("^(?:```|~~~).*", re.MULTILINE)


class Marks(HTMLParser):
    """The text in `mark` elements, the tags, and whether all of them are closed in order."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.tags, self.marked, self.ids, self.text = [], set(), "", [], ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in ("hr", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("hr", "br"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        self.marked += data if "mark" in self.open else ""


def letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_block_of_a_page_can_be_cited_and_its_words_alone_are_marked(page):
    text = page.read_text(encoding="utf-8")
    for block in list(BLOCK.finditer(text))[::6]:
        expected = FENCE.sub("", block[0]) if FENCE.match(block[0]) else shown(block[0])
        expected = re.sub(r"^\d+\. ", "", expected)  # a browser numbers the items
        if not letters(expected):
            continue  # the rule of a table
        html = Marks(marked_markdown(text, *block.span(), "cited"))
        assert html.ids == ["cited"], block[0]
        assert not re.search("^(```|~~~)", html.text, re.MULTILINE)
        assert letters(html.marked) == letters(expected), block[0]


def test_html_links_and_images_of_a_text_are_escaped():
    html = Marks(marked_markdown(f"# One {HOSTILE}\n\nTwo {HOSTILE}", 6, 12, "cited"))
    assert html.tags <= {"b", "p", "mark"}
    assert "<script>alert(1)</script>" in html.text


def test_a_citation_across_blocks_and_inside_code_and_emphasis_is_marked_in_each():
    text = "# Title\n\nSome **bold** `code`:\n\n```bash\nfolio serve\n```\n\n- an item\n\n"
    text += "| a | b |\n|---|---|\n| c | d |\n"
    html = Marks(marked_markdown(text, 0, len(text), "cited"))
    assert html.ids == ["cited"]
    assert letters(html.marked) == letters(html.text) == "TitleSomeboldcodefolioserveanitemabcd"
