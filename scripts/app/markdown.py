"""Markdown in `folio app`: a citation is marked, HTML in the text is escaped, and nothing is loaded."""

import re
from functools import cache

OPEN, CLOSE = "\ufdd0", "\ufdd1"  # around a citation; no text has these characters
# Markup of headings, items, tables and fences at the ends of a citation.
BEGINNING = re.compile(r"(?:[ \t]*(?:(?:#{1,6}|>|[*+-]|\d+[.)])[ \t]+|\||(?:`{3,}|~{3,}).*\n))*")
END = re.compile(r"(?:\s|\||(?<=\n)[ \t]*(?:`{3,}|~{3,}))*$")


def marked_markdown(text: str, start: int, end: int, id: str) -> str:
    """Render the text, with the part from `start` to `end` in `mark` elements, of which the first has the id."""
    if not text[text.rfind("\n", 0, start) + 1 : start].strip():
        start += len(BEGINNING.match(text[start:end])[0])  # pyright: ignore[reportOptionalSubscript]
    end -= len(END.search(text[start:end])[0])  # pyright: ignore[reportOptionalSubscript]
    tokens = _parser().parse(f"{text[:start]}{OPEN}{text[start:end]}{CLOSE}{text[end:]}")
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):  # the page has its own headings
            token.tag = "b"
    html, marked = "", False
    for part in re.split(f"(<[^>]*>|{OPEN}|{CLOSE})", _parser().renderer.render(tokens, _parser().options, {})):
        if part in (OPEN, CLOSE):
            marked = part == OPEN
        else:
            html += f"<mark>{part}</mark>" if marked and part.strip() and part[0] != "<" else part
    return html.replace("<mark>", f'<mark id="{id}">', 1)


@cache
def _parser():
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    for rule in ("link_open", "link_close"):
        parser.add_render_rule(rule, lambda *_: "")
    parser.add_render_rule("image", lambda self, tokens, index, *_: self.renderInlineAsText([tokens[index]], None, {}))
    return parser
