"""The HTML of the page holds texts, and never runs them."""

import base64
import fnmatch
import io
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from foliogpt.evaluation.introspection import Prediction
from foliogpt.scripts.app.html import attention_html, chat_html, heads_html, tokens_html, written_html

HOSTILE = '<img src=x onerror="alert(1)">'


class Reader(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    @property
    def names(self) -> set[str]:
        return {tag for tag, _ in self.tags}


def test_texts_are_escaped_wherever_they_are_shown():
    chat = Reader(chat_html([{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": HOSTILE}]))
    assert chat.names == {"div"}
    assert chat.text == HOSTILE * 2
    predictions = [Prediction(1, None, []), Prediction(2, 0.25, [(3, 0.5), (2, 0.25)])]
    tokens = Reader(tokens_html(predictions, [HOSTILE, HOSTILE], lambda id: HOSTILE))
    assert tokens.names == {"div", "span", "b", "i"}
    assert tokens.text.count(HOSTILE) == 4
    written = Reader(written_html(HOSTILE, HOSTILE))
    assert (written.names, written.text) == ({"div", "mark"}, HOSTILE * 2)
    attention = Reader(attention_html(torch.eye(2)[None, None], [HOSTILE, "a"], (0, 0), {}))
    assert "img" not in attention.names
    assert any(HOSTILE in attributes.get("title", "") for _, attributes in attention.tags)


def test_tokens_html_colors_by_probability_and_lists_a_rare_token():
    predictions = [Prediction(0, None, []), Prediction(1, 0.9, [(1, 0.9)]), Prediction(2, 1e-9, [(1, 0.9)])]
    page = Reader(tokens_html(predictions, ["a", "b", "c"], "xyz".__getitem__))
    tokens = [attributes for _, attributes in page.tags if attributes.get("class") == "token"]
    assert "style" not in tokens[0]
    assert "13, 148, 136" in tokens[1]["style"]
    assert "234, 88, 12" in tokens[2]["style"]
    assert "<0.1%" in page.text
    assert "3 tokens, loss" in page.text


def test_chat_html_marks_the_start_of_the_context():
    said = [{"role": "user", "content": str(i)} for i in range(4)]
    assert "no room" not in chat_html(said)
    before, after = chat_html(said, 2).split("no room")
    assert (before.count('class="user"'), after.count('class="user"')) == (2, 2)


def test_heads_html_has_the_weights_and_the_initial_of_each_head():
    image = pytest.importorskip("PIL.Image")
    weights = torch.rand(2, 3, 5, 5).tril()
    page = Reader(heads_html(weights, {(1, 2): "induction", (0, 0): "previous token"}))
    buttons = [attributes for tag, attributes in page.tags if tag == "button"]
    assert [button["data-place"] for button in buttons] == ["0 0", "0 1", "0 2", "1 0", "1 1", "1 2"]
    assert [buttons[0]["aria-label"], buttons[5]["aria-label"]] == [
        "layer 1, head 1: previous token",
        "layer 2, head 3: induction",
    ]
    assert page.text.endswith("i: induction, p: previous token1p2i")
    pictures = [attributes["src"].partition(",")[2] for tag, attributes in page.tags if tag == "img"]
    drawn = image.open(io.BytesIO(base64.b64decode(pictures[4])))
    opaque = torch.tensor(list(drawn.getchannel("A").tobytes())).reshape(5, 5) / 255
    torch.testing.assert_close(opaque**2, weights[1, 1], atol=0.005, rtol=0)


def test_the_files_of_the_page_are_in_the_package():
    root = Path(__file__).parents[2]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    files = [path.name for path in (root / "scripts" / "app").iterdir() if path.suffix in (".css", ".js")]
    assert files
    assert all(any(fnmatch.fnmatch(name, pattern) for pattern in patterns) for name in files)
