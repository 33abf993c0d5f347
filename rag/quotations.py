"""Quotations of a passage: an option with its name, a term with its definition, a row of a table with the first row.

An item of a list or an example has the sentence that introduces it. A heading or code is never quoted alone.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

from .answering import Passage
from .sentences import BLOCK_END, ENDS, MAX_CHARACTERS, WIDE_ENDS, sentences

Span = tuple[int, int]

MAX_TERM_CHARACTERS = 100
FENCE = r"^[ \t]*(```+|~~~+)(?:.|\n)*?(?:^[ \t]*\1[ \t]*$|\Z)"
TABLE = r"^\|.*(?:\n\|.*)*"
APART = re.compile(f"{FENCE}|{TABLE}", re.MULTILINE)
HEADING = re.compile(r"#{1,6} .*|(?:.+\n)?([!-/:-@\[-`{-~])\1{3,}[ \t]*(?:\n|$)")
ITEM = re.compile(r"[-*•]\s|\d+[.)]\s")
LINE, TABLE_RULE = re.compile(".+"), re.compile(r"[\s|:+=-]+")
CODE = re.compile(r"\$ |>>>|\.\.\s|@\w|```|~~~|\S*---")
IDENTIFIER = re.compile(r"-|\S*[._<>=(\[$/]\S*|\S+$")  # an option, a variable, a file, or a single word
UNENDED = re.compile(rf"[^{ENDS}{WIDE_ENDS}:;,]$")

LINE_MARK = re.compile(r"^[ \t]*(?:#{1,6}[ \t]+|>[ \t]+|[*•-][ \t]+|(?:```|~~~)\w*[ \t]*$)", re.MULTILINE)
LINK = re.compile(r"!?\[((?:[^\]\n]|\n(?!\s*\n))*)\]\([^)\s]*\)")
EMPHASIS = re.compile(r"(?<!\w)(\*\*|\*|`+)(?=\S)([^\n]+?)(?<=\S)\1(?!\w)")
BAR = re.compile(r"\s*\|\s*")


def shown(text: str) -> str:
    """Return a quotation in one line and without Markdown's marks. The citation keeps them."""
    text = LINK.sub(r"\1", LINE_MARK.sub("", text))
    text = EMPHASIS.sub(r"\2", EMPHASIS.sub(r"\2", text))
    if text.lstrip().startswith("|"):
        text = BAR.sub(" – ", text.strip().strip("|").strip())
    return " ".join(text.split())


def quotations(passage: Passage) -> list[tuple[str, tuple[Span, ...]]]:
    """Return the quotations of a passage, each as the heading above it and the spans that belong together."""
    cutter = _Cutter(passage)
    headings = {place - passage.start for place in passage.headings}
    for start, end in _blocks(passage.text):
        marked = HEADING.match(passage.text, start, end)
        if marked or start in headings:
            below = marked.end() if marked else passage.text.find("\n", start, end)
            below = below if below >= 0 else end
            cutter.flush(passage.text[start:below])
            start = below
        start += len(passage.text[start:end]) - len(passage.text[start:end].lstrip())
        if passage.text.startswith("|", start):
            lines = [found.span() for found in LINE.finditer(passage.text, start, end)]
            lines = [line for line in lines if not TABLE_RULE.fullmatch(passage.text, *line)]
            for row in lines[1:]:
                cutter.quote(lines[0], row)
        elif start < end:
            cutter.add(start, end)
    cutter.flush("")
    return cutter.found or [("", (span,)) for span in sentences(passage.text)]


class _Cutter:
    """The state while the blocks of a text are cut into quotations."""

    def __init__(self, passage: Passage) -> None:
        self.text, self.heading, self.found = passage.text, "", []
        self.pages = [place - passage.start for place in passage.pages if passage.start < place < passage.end]
        self.terms: list[Span] = []  # defined by the following blocks
        self.lead: list[Span] = []  # the sentence that introduces the following blocks
        self.is_term = False  # of the last block

    def flush(self, heading: str) -> None:
        """End a section. The following blocks belong to this heading."""
        if self.is_term and self.lead:  # a list, not terms
            self.quote(*self.lead)
        self.heading, self.terms, self.lead, self.is_term = shown(heading), [], [], False

    def add(self, start: int, end: int) -> None:
        block = self.text[start:end]
        is_item, after_term = bool(ITEM.match(block)), self.is_term
        is_unended = bool(UNENDED.search(block)) and not is_item
        self.is_term = False
        if CODE.match(block) or (is_unended and ("\n" in block or (self.lead and len(block.split()) > 2))):
            if self.lead:
                self.quote(*self.lead, (start, end))
        elif is_unended and len(block) <= MAX_TERM_CHARACTERS:
            self.terms = [*self.terms, (start, end)] if after_term else [(start, end)]
            self.is_term = True
        elif not TABLE_RULE.fullmatch(block):
            self.lead = self.lead if is_item or after_term else []
            parts = [(start + first, start + last) for first, last in sentences(block)]
            new_lead = [parts.pop()] if block.endswith(":") else []
            for part in _merged(parts, self._are_quoted_together):
                self.quote(*self.lead, part)
            self.lead = new_lead or self.lead

    def _are_quoted_together(self, left: Span, right: Span) -> bool:
        is_short = right[1] - left[0] <= MAX_CHARACTERS
        return is_short and not any(left[0] < page <= right[0] for page in self.pages)

    def quote(self, *parts: Span) -> None:
        """Quote the terms and then parts, as one span if only white space separates them."""
        spans = sorted({*self.terms, *parts})
        quotation = _merged(spans, lambda left, right: not self.text[left[1] : right[0]].strip())
        self.found.append((self.heading, tuple(quotation)))
        if self.terms and not IDENTIFIER.match(self.text[slice(*self.terms[-1])]):
            self.terms = []  # perhaps a heading, which belongs to the next block alone


def _merged(spans: Iterable[Span], belong_together: Callable[[Span, Span], bool]) -> list[Span]:
    merged: list[Span] = []
    for span in spans:
        is_next = bool(merged) and belong_together(merged[-1], span)
        merged.append((merged.pop()[0], span[1]) if is_next else span)
    return merged


def _blocks(text: str) -> Iterator[Span]:
    """Yield the paragraphs, items of lists, tables and fenced code of a text, without surrounding space."""
    whole = [found.span() for found in APART.finditer(text)]
    cuts = {0, len(text), *(edge for span in whole for edge in span)}
    cuts |= {end.end() for end in BLOCK_END.finditer(text) if not any(a < end.end() < b for a, b in whole)}
    for left, right in pairwise(sorted(cuts)):
        block = text[left:right]
        if block.strip():
            yield left + len(block) - len(block.lstrip()), left + len(block.rstrip())
