"""Known-item queries: questions that are generated from the documents themselves.

The first sentence of a section is removed from it and becomes a query, without the words of the title; the search must
find the section. Sections begin at headings, and in long texts without any at every SECTION_CHARACTERS characters.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby, pairwise
from typing import NamedTuple

from ..documents import Document, Heading
from ..lexical import STOP_WORDS
from ..readers import PYTHON_MANUAL
from ..sentences import CLOSING, ENDS, PARAGRAPH_END, SENTENCE_END, WIDE_ENDS
from .datasets import Dataset, Question

QUESTIONS = 300
SECTION_CHARACTERS = 2000  # after which a new section begins with the next paragraph
MIN_REST_CHARACTERS = 200  # that must be left of a section, for the search to find it
MIN_WORDS, MAX_CHARACTERS = 4, 1000  # of a question

PROSE = re.compile(rf"[^\W\d_\s\"'“‘(].*[{ENDS}{WIDE_ENDS}][{CLOSING}]*", re.DOTALL)
WORD = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]|\w+")  # Japanese and Chinese have no spaces
LINE = re.compile(r"[^\n]+")


class Item(NamedTuple):
    """A sentence, `document.text[start:end]`, with the white space after it, and the question that it becomes."""

    document: int
    section: int
    start: int
    end: int
    question: str


def known_items(documents: Iterable[Document], count: int = QUESTIONS, seed: int = 0) -> Dataset:
    """Sample up to `count` sections and ask for their first sentences, which all the documents come without."""
    documents = list(documents)
    starts = [section_starts(document) for document in documents]
    items = [item for number, each in enumerate(documents) for item in _items(number, each, starts[number])]
    frequency = Counter(item.question for item in items)
    items = [item for item in items if frequency[item.question] == 1]  # a repeated question has several answers
    if not items:
        needs = f"a sentence at the start of a section, followed by at least {MIN_REST_CHARACTERS} characters"
        raise ValueError(f"No document has {needs}: give other documents, or your own questions.")
    chosen = sorted(random.Random(seed).sample(items, min(count, len(items))))
    for number, removed in groupby(chosen, key=lambda item: item.document):
        documents[number], starts[number] = _without(documents[number], starts[number], list(removed))
    named = [(documents[item.document].name, item.section, item.question) for item in chosen]
    questions = [Question(f"{name}#{section}", text, {(name, section): 1}) for name, section, text in named]
    sections = {document.name: each for document, each in zip(documents, starts, strict=True)}
    modules = {d.name: d.name.partition(".")[0] for d in documents if d.metadata.get("type") == PYTHON_MANUAL}
    return Dataset("known-items", questions, documents, sections, modules)


def section_starts(document: Document) -> list[int]:
    """Return the positions in a document at which its sections start; the first one is 0."""
    starts = sorted({0, *(heading.start for heading in document.headings)})
    found = []
    for start, end in pairwise([*starts, len(document.text)]):
        found.append(start)
        for paragraph in PARAGRAPH_END.finditer(document.text, start, end):
            if paragraph.end() - found[-1] >= SECTION_CHARACTERS and end - paragraph.end() >= SECTION_CHARACTERS / 2:
                found.append(paragraph.end())
    return found


def _items(number: int, document: Document, starts: list[int]) -> Iterator[Item]:
    text, above = document.text, Heading(-1, 0, "")
    headings = {heading.start: heading for heading in document.headings}
    for section, (start, end) in enumerate(pairwise([*starts, len(text)])):
        above = headings.get(start, above)
        body = _skip_heading(text, start, end, above) if start in headings else start
        first, stop = _first_sentence(text, body, end)
        if end - body - (stop - first) < MIN_REST_CHARACTERS:
            continue
        names = [document.title, above.text]
        question = " ".join(_mask(text[first:stop], names).split())[:MAX_CHARACTERS]
        if len(WORD.findall(question)) >= MIN_WORDS:
            yield Item(number, section, first, stop, question)


def _skip_heading(text: str, start: int, end: int, heading: Heading) -> int:
    """Return the position at which a section continues after its heading, which may be underlined."""
    lines = [line for line in LINE.finditer(text, start, end) if any(map(str.isalnum, line[0]))]
    has_heading = bool(lines) and heading.text in lines[0][0]
    return next((line.start() for line in lines[has_heading:]), end)


def _first_sentence(text: str, start: int, end: int) -> tuple[int, int]:
    """Find the first sentence of prose at the start of a paragraph; an empty one if all are lists, tables or code."""
    cuts = [found.end() for found in PARAGRAPH_END.finditer(text, start, end)]
    for begin, stop in pairwise([start, *cuts, end]):
        cut = SENTENCE_END.search(text, begin, stop)
        stop = cut.end() if cut else stop
        sentence = text[begin:stop].strip()
        if PROSE.fullmatch(sentence) and len(WORD.findall(sentence)) >= MIN_WORDS:
            return begin, stop
    return start, start


def _mask(sentence: str, names: list[str]) -> str:
    """Replace the topic of a sentence by "it": the last part of an identifier, the telling words of a title."""
    words: set[str] = set()
    for name in map(str.strip, names):
        telling = [word for word in WORD.findall(name) if word.lower() not in STOP_WORDS]
        forms = {form for word in telling for form in (word, word.lower(), word.capitalize())}
        words |= forms if " " in name else {name.rpartition(".")[2]} - {""}
    if not words:
        return sentence
    any_of = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.sub(rf"\b(?:{any_of})\b(?:\s+(?:{any_of})\b)*", "it", sentence)


def _without(document: Document, starts: list[int], items: list[Item]) -> tuple[Document, list[int]]:
    """Remove sentences from a document; return the new document and the starts of its sections."""
    cuts = [0, *(position for item in items for position in (item.start, item.end)), len(document.text)]
    text = "".join(document.text[start:end] for start, end in zip(cuts[::2], cuts[1::2], strict=True))

    def moved(position: int) -> int:
        return position - sum(min(position, item.end) - item.start for item in items if item.start < position)

    headings = tuple(replace(heading, start=moved(heading.start)) for heading in document.headings)
    pages = tuple(map(moved, document.pages))
    return replace(document, text=text, headings=headings, pages=pages), list(map(moved, starts))
