"""Known items: questions to anybody's documents that need nobody to write them.

The first sentence of a section is taken out of it and asked for, without the words of the title; the section that it
was taken from must be found. Sections begin at headings, and in long texts without any at every so many characters.
A docstring is a section under its signature.
"""

import random
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

from ..documents import Document, Heading
from ..lexical import STOP_WORDS
from ..readers import PYTHON_MANUAL
from ..sentences import CLOSING, ENDS, PARAGRAPH_END, SENTENCE_END, WIDE_ENDS
from .datasets import Dataset, Question

QUESTIONS = 300
SECTION_CHARACTERS = 2000  # after which a new section begins with the next paragraph
LEFT_CHARACTERS = 200  # that a section must have beside the sentence, to be found by
LEAST_WORDS, MOST_CHARACTERS = 4, 1000  # of a question

PROSE = re.compile(rf"[^\W\d_\s\"'“‘(].*[{ENDS}{WIDE_ENDS}][{CLOSING}]*", re.DOTALL)
WORD = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]|\w+")  # Japanese and Chinese have no spaces
MASK = "it"


class Item(NamedTuple):
    """A sentence, `document.text[start:end]`, with the white space behind it, and the question that it becomes."""

    document: int
    section: int
    start: int
    end: int
    question: str


def known_items(documents: Iterable[Document], count: int = QUESTIONS, seed: int = 0) -> Dataset:
    """Questions to some sections, drawn by chance, and all the documents, without the sentences that are asked for."""
    documents = list(documents)
    starts = [section_starts(document) for document in documents]
    items = [item for number, each in enumerate(documents) for item in _items(number, each, starts[number])]
    often = Counter(item.question for item in items)
    items = [item for item in items if often[item.question] == 1]  # else there is no telling which one is meant
    if not items:
        raise ValueError(
            f"No document has a sentence to ask for, at the start of a section of at least {LEFT_CHARACTERS} "
            "characters more: give other documents, or questions of your own."
        )
    chosen = sorted(random.Random(seed).sample(items, min(count, len(items))))
    for number, out in groupby(chosen, key=lambda item: item.document):
        documents[number], starts[number] = _without(documents[number], starts[number], list(out))
    named = [(documents[item.document].name, item.section, item.question) for item in chosen]
    questions = [Question(f"{name}#{section}", text, {(name, section): 1}) for name, section, text in named]
    sections = {document.name: each for document, each in zip(documents, starts, strict=True)}
    modules = {d.name: d.name.partition(".")[0] for d in documents if d.metadata.get("type") == PYTHON_MANUAL}
    return Dataset("known-items", questions, documents, sections, modules)


def section_starts(document: Document) -> list[int]:
    """Where the sections of a document start; the first one at 0."""
    starts = sorted({0, *(heading.start for heading in document.headings)})
    found = []
    for start, end in zip(starts, [*starts[1:], len(document.text)], strict=True):
        found.append(start)
        for paragraph in PARAGRAPH_END.finditer(document.text, start, end):
            if paragraph.end() - found[-1] >= SECTION_CHARACTERS and end - paragraph.end() >= SECTION_CHARACTERS / 2:
                found.append(paragraph.end())
    return found


def _items(number: int, document: Document, starts: list[int]) -> Iterator[Item]:
    text, headings = document.text, {heading.start: heading for heading in document.headings}
    at = [heading.start for heading in document.headings]
    for section, (start, end) in enumerate(zip(starts, [*starts[1:], len(text)], strict=True)):
        body = _below(text, start, end, headings[start]) if start in headings else start
        found = _first_sentence(text, body, end)
        if found is None or end - body - (found[1] - found[0]) < LEFT_CHARACTERS:
            continue
        last = bisect_right(at, start) - 1
        names = [document.title, *([document.headings[last].text] if last >= 0 else [])]
        question = " ".join(_masked(text[slice(*found)], names).split())[:MOST_CHARACTERS]
        if len(WORD.findall(question)) >= LEAST_WORDS:
            yield Item(number, section, *found, question)


def _below(text: str, start: int, end: int, heading: Heading) -> int:
    """Where a section goes on after its heading, which may be underlined."""
    is_seen = False
    while start < end:
        line_end = text.find("\n", start, end) + 1 or end
        line = text[start:line_end]
        is_heading = not is_seen and heading.text in line
        if not is_heading and any(character.isalnum() for character in line):
            break
        is_seen |= is_heading
        start = line_end
    return start


def _first_sentence(text: str, start: int, end: int) -> tuple[int, int] | None:
    """The first sentence that begins a paragraph: no signature, list, table or code."""
    cuts = [found.end() for found in PARAGRAPH_END.finditer(text, start, end)]
    for begin, stop in zip([start, *cuts], [*cuts, end], strict=True):
        cut = SENTENCE_END.search(text, begin, stop)
        stop = cut.end() if cut else stop
        sentence = text[begin:stop].strip()
        if PROSE.fullmatch(sentence) and len(WORD.findall(sentence)) >= LEAST_WORDS:
            return begin, stop
    return None


def _masked(sentence: str, names: list[str]) -> str:
    """A sentence in which what it is about is "it": the last part of an identifier, the telling words of a title."""
    words: set[str] = set()
    for name in map(str.strip, names):
        telling = [word for word in WORD.findall(name) if word.lower() not in STOP_WORDS]
        forms = {form for word in telling for form in (word, word.lower(), word.capitalize())}
        words |= forms if " " in name else {name.rpartition(".")[2]} - {""}
    if not words:
        return sentence
    any_of = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.sub(rf"\b(?:{any_of})\b(?:\s+(?:{any_of})\b)*", MASK, sentence)


def _without(document: Document, starts: list[int], items: list[Item]) -> tuple[Document, list[int]]:
    """A document without sentences, and where its sections start now."""
    parts, at = [], 0
    for item in items:
        parts.append(document.text[at : item.start])
        at = item.end
    text = "".join([*parts, document.text[at:]])

    def moved(position: int) -> int:
        return position - sum(min(position, item.end) - item.start for item in items if item.start < position)

    headings = tuple(replace(heading, start=moved(heading.start)) for heading in document.headings)
    pages = tuple(map(moved, document.pages))
    return replace(document, text=text, headings=headings, pages=pages), list(map(moved, starts))
