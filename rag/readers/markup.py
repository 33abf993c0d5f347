"""Markdown, reStructuredText and LaTeX: the source as it is, with its headings."""

import re
from contextlib import suppress
from itertools import pairwise

from ..documents import Heading
from .text import decode, scalars

LINE_END = re.compile(r"\r\n?|\n")
FRONT_MATTER = re.compile(r"\ufeff?---[ \t]*\r?\n(?=[\w-]+[ \t]*:)(.*?\n)(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.DOTALL)
MAX_FRONT_MATTER = 10_000  # characters: the YAML parser is slow
RST_LINE = re.compile(r"([!-/:-@\[-`{-~])\1*[ \t]*")  # one punctuation mark repeated
RST_NO_TITLE = re.compile(r"\.\. |[-*+•‣⁃] |>>> |\| ")
LATEX_LEVELS = ("part", "chapter", "section", "subsection", "subsubsection", "paragraph", "subparagraph")
LATEX_HEADING = re.compile(
    r"^[ \t]*\\(title|part|chapter|(?:sub){0,2}section|(?:sub)?paragraph)\*?(?:\[[^\]\n]{0,300}\])?\{([^\n]{1,500}?)\}"
    r"[ \t]*(?:\\label\{[^}\n]*\}[ \t]*)?(?:%|$)",
    re.MULTILINE,
)


def markdown(name: str, data: bytes) -> dict:
    import yaml

    text = decode(data)
    front = FRONT_MATTER.match(text[:MAX_FRONT_MATTER])
    metadata = {}
    if front:
        with suppress(yaml.YAMLError, ValueError, TypeError, RecursionError):
            metadata = scalars(fields) if isinstance(fields := yaml.safe_load(front[1]), dict) else {}
    title = metadata.pop("title", None)
    headings = markdown_headings(text, front.end() if front else 0)
    return {"text": text, "headings": headings, "title": title if isinstance(title, str) else "", "metadata": metadata}


def markdown_headings(text: str, start: int = 0) -> list[Heading]:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark")
    parser.core.ruler.enableOnly(["normalize", "block"])
    lines = [start, *(found.end() for found in LINE_END.finditer(text, start))]
    return [
        Heading(lines[token.map[0]], int(token.tag[1]), " ".join(inline.content.split()))
        for token, inline in pairwise(parser.parse(text[start:]))
        if token.type == "heading_open" and token.level == 0 and token.map and inline.content.strip()
    ]


def restructured_text(name: str, data: bytes) -> dict:
    """Roles and directives stay, and nothing is included."""
    text = decode(data)
    starts = [0, *(found.end() for found in LINE_END.finditer(text))]
    lines = [text[start:end].rstrip() for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    styles: list[tuple[str, bool]] = []  # in the order in which they appear, which gives their level
    headings = []
    free = 0  # the first line that is no part of a title
    for number in range(1, len(lines)):
        title, line = lines[number - 1], lines[number]
        if not line or number <= free or not RST_LINE.fullmatch(line):
            continue
        words = title.strip()
        before = lines[number - 2] if number - 2 >= free else ""
        over = before == line and len(line) >= len(title)
        if not words or RST_LINE.fullmatch(words) or len(line) < min(len(title), 4) or RST_NO_TITLE.match(title):
            continue
        if not over and (title[0].isspace() or (before and not before[0].isspace() and not before.startswith(".."))):
            continue  # the end of a paragraph
        style = (line[0], over)
        if style not in styles:
            styles.append(style)
        headings.append(Heading(starts[number - 1 - over], styles.index(style) + 1, words))
        free = number + 1
    return {"text": text, "headings": headings}


def latex(name: str, data: bytes) -> dict:
    text = decode(data)
    found = [(heading.start(), heading[1], heading[2]) for heading in LATEX_HEADING.finditer(text)]
    title = next((words for _, kind, words in found if kind == "title"), "")
    headings = [Heading(at, LATEX_LEVELS.index(kind) + 1, words) for at, kind, words in found if kind != "title"]
    return {"text": text, "headings": headings, "title": title}
