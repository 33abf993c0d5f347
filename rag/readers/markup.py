"""Markdown, reStructuredText and LaTeX: the unchanged source, with its headings."""

import re
from contextlib import suppress
from itertools import pairwise

from ..documents import Heading
from .text import decode, scalars

LINE_END = re.compile(r"\r\n?|\n")
FRONT_MATTER = re.compile(r"\ufeff?---[ \t]*\r?\n(?=[\w-]+[ \t]*:)(.*?\n)(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.DOTALL)
MAX_FRONT_MATTER = 10_000  # characters; the YAML parser is slow
RST_LINE = re.compile(r"([!-/:-@\[-`{-~])\1*")  # one punctuation mark repeated
RST_NO_TITLE = re.compile(rf"\.\. |[-*+•‣⁃] |>>> |\| |\s*(?:{RST_LINE.pattern})?$")
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
    with suppress(yaml.YAMLError, ValueError, TypeError, RecursionError, AttributeError):  # the last: not a mapping
        metadata = scalars(yaml.safe_load(front[1])) if front else {}
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
    """Read the text with its roles and directives; nothing is included."""
    text = decode(data)
    starts = [0, *(found.end() for found in LINE_END.finditer(text))]
    lines = [text[start:end].rstrip() for start, end in pairwise([*starts, len(text)])]
    styles: dict[tuple[str, bool], int] = {}  # a style's level is the order in which styles appear
    headings = []
    end = 0  # the first line after the last title
    for number in range(1, len(lines)):
        title, line = lines[number - 1], lines[number]
        if number <= end or not RST_LINE.fullmatch(line) or len(line) < min(len(title), 4) or RST_NO_TITLE.match(title):
            continue
        before = lines[number - 2] if number - 2 >= end else ""
        over = before == line and len(line) >= len(title)
        if not over and (title[0].isspace() or (before and not before[0].isspace() and not before.startswith(".."))):
            continue  # the end of a paragraph
        level = styles.setdefault((line[0], over), len(styles) + 1)
        headings.append(Heading(starts[number - 1 - over], level, title.strip()))
        end = number + 1
    return {"text": text, "headings": headings}


def latex(name: str, data: bytes) -> dict:
    text = decode(data)
    found = [(heading.start(), heading[1], heading[2]) for heading in LATEX_HEADING.finditer(text)]
    title = next((words for _, kind, words in found if kind == "title"), "")
    headings = [Heading(at, LATEX_LEVELS.index(kind) + 1, words) for at, kind, words in found if kind != "title"]
    return {"text": text, "headings": headings, "title": title}
