"""Chunks of documents: parts of a section that an embedding model can read.

A text is cut at its highest headings; a section that is still too long at the next ones, then at paragraphs, lines,
sentences and words. Neighbors in a section are merged again as long as they fit.
"""

import hashlib
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .documents import Document, Heading, context_of
from .sentences import PARAGRAPH_END, SENTENCE_END

CHUNK_TOKENS = 200
CONTEXT_TOKENS = 50  # of the title and heading before the text: together within the 254 tokens of MiniLM
MIN_CHUNK_SHARE = 0.25  # of the tokens; a smaller part is merged with its neighbor
# English has about 5. A "word" of a megabyte is one unknown token to WordPiece, and so is a line of Thai.
MAX_CHARACTERS_PER_TOKEN = 8

# Boundaries of pieces, from the best to the worst.
BREAKS = [PARAGRAPH_END, re.compile(r"\n\s*"), SENTENCE_END, re.compile(r"\s+")]

TokenStarts = Callable[[str], list[int]]  # returns the position of the first character of each token of a text


@dataclass(frozen=True)
class Chunk:
    """A part of a document: `document.text[start:end]`. `context` has its title and heading."""

    start: int
    end: int
    text: str
    heading: str
    context: str
    page: int | None

    @property
    def embedded_text(self) -> str:
        return f"{self.context}\n{self.text}" if self.context else self.text

    @property
    def hash(self) -> bytes:
        return hashlib.blake2b(self.embedded_text.encode(), digest_size=16).digest()


def chunk_document(document: Document, token_starts: TokenStarts, max_tokens: int = CHUNK_TOKENS) -> list[Chunk]:
    """Cut a document into chunks of at most `max_tokens` tokens, which are all of its text except white space."""
    text = document.text
    ruler = Ruler(token_starts(text), max_tokens)
    # For each level of headings, the starts of its sections, which end at the next heading as high or higher.
    levels = sorted({heading.level for heading in document.headings})
    starts = [[h.start for h in document.headings if h.level <= level] for level in levels]
    path: list[Heading] = []
    paths = [""]  # before the first heading, and from each one on
    for heading in document.headings:
        path = [above for above in path if above.level < heading.level] + [heading]
        paths.append(" > ".join(each.text for each in path))
    places = [heading.start for heading in document.headings]
    chunks = []
    for start, end in _pieces(text, 0, len(text), starts, 0, ruler):
        passage = text[start:end].strip()
        if not passage:
            continue
        start = text.index(passage, start)
        under = paths[bisect_right(places, start)]
        context = context_of(document.title, under, passage)
        if len(context) > CONTEXT_TOKENS and len(starts_of := token_starts(context)) > CONTEXT_TOKENS:
            context = context[: starts_of[CONTEXT_TOKENS]].rstrip()
        page = bisect_right(document.pages, start) or None
        chunks.append(Chunk(start, start + len(passage), passage, under, context, page))
    return chunks


class Ruler:
    """The number of tokens in parts of a text. A token counts at its start."""

    def __init__(self, token_starts: list[int], max_tokens: int) -> None:
        self.token_starts, self.max_tokens = token_starts, max_tokens

    def fits(self, start: int, end: int) -> bool:
        is_long = end - start > self.max_tokens * MAX_CHARACTERS_PER_TOKEN
        return not is_long and self.tokens(start, end) <= self.max_tokens

    def tokens(self, start: int, end: int) -> int:
        return bisect_left(self.token_starts, end) - bisect_left(self.token_starts, start)


def _pieces(
    text: str, start: int, end: int, headings: list[list[int]], level: int, ruler: Ruler
) -> Iterator[tuple[int, int]]:
    """Cut at the boundaries of this `level`, and long parts at those of the next; merge short parts."""
    if ruler.fits(start, end):
        yield start, end
        return
    if level < len(headings):
        cuts = [cut for cut in headings[level] if start < cut < end]
    elif level < len(headings) + len(BREAKS):
        cuts = [m.end() for m in BREAKS[level - len(headings)].finditer(text, start, end) if start < m.end() < end]
    else:
        yield from _cut_hard(start, end, ruler)
        return
    is_section = level < len(headings)
    merged = start
    for left, right in zip([start, *cuts], [*cuts, end], strict=True):
        if ruler.fits(merged, right):
            continue
        is_enough = is_section or ruler.tokens(merged, left) > ruler.max_tokens * MIN_CHUNK_SHARE
        if merged < left and is_enough:  # a title stays with its first lines
            yield merged, left
            merged = left
        if ruler.fits(merged, right):
            continue
        *inner, last = _pieces(text, merged, right, headings, level + 1, ruler)
        yield from inner
        merged = last[0]  # the rest is merged with the next part, unless that is another section
        if is_section:
            yield last
            merged = right
    if merged < end:
        yield merged, end


def _cut_hard(start: int, end: int, ruler: Ruler) -> Iterator[tuple[int, int]]:
    """Cut a word that is too long: base64, for instance, or a language without spaces."""
    starts = ruler.token_starts
    while start < end:
        # Several tokens can spell one character: the next token must start after it.
        first = max(bisect_left(starts, start) + ruler.max_tokens, bisect_right(starts, start))
        token = starts[first] if first < len(starts) else end
        stop = min(token, start + ruler.max_tokens * MAX_CHARACTERS_PER_TOKEN, end)
        yield start, stop
        start = stop
