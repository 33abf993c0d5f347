"""HTML as a browser shows it, from a tree that a parser builds by the rules of HTML5."""

import re

from ..documents import Heading
from .text import Unreadable, decode

BLOCKS = re.compile(
    "address|article|aside|blockquote|body|br|caption|center|d[dlt]|details|dialog|dir|div|fieldset|figcaption|figure|"
    "footer|form|h[1-6]|header|hgroup|hr|legend|li|listing|main|marquee|menu|nav|ol|optgroup|option|p|plaintext|pre|"
    "search|section|summary|svg|table|textarea|tr|ul|xmp"
)
APART = re.compile("p|h[1-6]|pre|table|blockquote|[dou]l|figure")  # with an empty line before and after
HIDDEN = (
    "script, style, template, noscript, iframe, audio, video, canvas, datalist, meter, progress, noframes, noembed, "
    "rp, title, annotation, annotation-xml, dialog:not([open]), [hidden], [style*='display:none' i], "
    "[style*='display: none' i], [style*='visibility:hidden' i], [style*='visibility: hidden' i]"
)
DECLARED = re.compile(rb"""<(?:meta|\?xml)[^>]{1,300}?(?:charset|encoding)\s*=\s*["']?([\w-]+)""", re.IGNORECASE)
# An empty element of XHTML. In HTML it would contain everything after it.
EMPTY = re.compile(r"<((?!(?:area|base|br|col|embed|hr|img|input|link|meta|source|track|wbr)\b)[\w:-]+)(\s[^<>]*)?/>")
# A tag, unless the next one closes it.
TAG = re.compile(
    r"<(/?)(?!(?:p|li|d[dt]|t[dhr]|option|[abi]|br|hr|img|input|meta|link|col|wbr|path|rect|use)\b)[a-z]", re.I
)
HEADING = re.compile("h[1-6]")
PREFORMATTED = ("pre", "textarea", "listing", "plaintext", "xmp")
MAX_NESTING = 300_000_000  # the sum of the depths of all tags; parsing then takes some seconds
GAPS = ("", " ", "\t", "\n", "\n\n")
SPACE, TAB, LINE, PARAGRAPH = 1, 2, 3, 4


def html(name: str, data: bytes) -> dict:
    declared = DECLARED.search(data[:4096])
    markup = decode(data, declared[1].decode() if declared else "")
    if name.endswith(".xhtml") or markup.lstrip().startswith("<?xml"):
        markup = EMPTY.sub(r"<\1\2></\1>", markup)
    return read_markup(markup)


def read_markup(markup: str) -> dict:
    """Read text, headings and title. Hidden elements and those that only another program shows are left out."""
    from selectolax.lexbor import LexborHTMLParser

    depth = total = 0
    for found in TAG.finditer(markup):
        depth = max(depth - 1, 0) if found[1] else depth + 1
        total += depth
    if total > MAX_NESTING:  # the parser looks at all open tags for each tag, so its time is quadratic
        raise Unreadable("is nested too deeply")
    tree = LexborHTMLParser(markup)
    hidden = {node.mem_id for node in tree.css(HIDDEN)}
    page, node, depth = Page(), tree.body, 0
    while node is not None:  # not recursive: a page may be nested deeply
        if node.is_text_node:
            page.add(node.text_content)
        elif node.is_element_node and node.mem_id not in hidden:
            page.start(node.tag)
            if node.child is not None:
                node, depth = node.child, depth + 1
                continue
            page.end(node.tag)
        while depth and node.next is None:
            node, depth = node.parent, depth - 1
            page.end(node.tag)
        node = node.next if depth else None
    title = tree.css_first("head > title")
    return {**page.read(), "title": " ".join(title.text().split()) if title else ""}


class Page:
    """Text with headings, built from elements. `gap` is the white space before the next text."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.headings: list[Heading] = []
        self.size = self.gap = self.row = self.preformatted = self.level = self.deeper = 0
        self.heading: tuple[int, int] | None = None  # start of the open heading's words, in the text and in `parts`

    def start(self, tag: str) -> None:
        if self.gap != TAB:  # the first block of a cell continues the line of its row
            self._separate(tag, PARAGRAPH if tag == "br" and self.gap == LINE else LINE)
        self.row = self.size if tag == "tr" else self.row
        self.preformatted += tag in PREFORMATTED
        if HEADING.fullmatch(tag):
            self.begin_heading(int(tag[1]))

    def begin_heading(self, level: int) -> None:
        self.deeper += bool(self.level and level)  # a heading within another is a part of it
        self.level = self.level or level

    def end(self, tag: str) -> None:
        self._separate(tag)
        if tag in ("td", "th") and self.size > self.row:
            self.gap = TAB
        self.preformatted -= tag in PREFORMATTED
        if HEADING.fullmatch(tag):
            self.end_heading()

    def end_heading(self) -> None:
        if self.deeper:
            self.deeper -= 1
            return
        if self.heading:
            start, first = self.heading
            self.headings.append(Heading(start, self.level, " ".join("".join(self.parts[first:]).split())))
        self.level, self.heading = 0, None

    def _separate(self, tag: str, gap: int = LINE) -> None:
        if BLOCKS.fullmatch(tag):
            self.gap = max(self.gap, PARAGRAPH if APART.fullmatch(tag) else gap)

    def add(self, text: str) -> None:
        words = (text if self.preformatted else " ".join(text.split())).replace("\xad", "")
        if words != text and text[:1].isspace():
            self.gap = max(self.gap, SPACE)
        if not words:
            return
        gap = GAPS[self.gap] if self.size else ""
        if self.level and self.heading is None:
            self.heading = self.size + len(gap), len(self.parts) + 1
        self.parts += [gap, words]
        self.size += len(gap) + len(words)
        self.gap = SPACE if words != text and text[-1:].isspace() else 0

    def read(self) -> dict:
        return {"text": "".join(self.parts), "headings": self.headings}
