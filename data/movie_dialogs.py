"""The Cornell Movie-Dialogs Corpus (Danescu-Niculescu-Mizil and Lee, 2011), in its own format, as chats."""

import ast
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from .rows import Row

LINES, CONVERSATIONS = "movie_lines.txt", "movie_conversations.txt"
SEPARATOR, ENCODING = " +++$+++ ", "iso-8859-1"


def is_movie_dialogs(source: str) -> bool:
    """Return True if a folder holds the corpus."""
    folder = Path(source).expanduser()
    return (folder / LINES).is_file() and (folder / CONVERSATIONS).is_file()


def movie_chats(source: str) -> Iterator[Row]:
    """Yield each conversation as a chat: the first speaker is the user, the other one the assistant.

    Successive lines of one speaker are one message. A conversation without an answer, as some lines are empty, is
    skipped; one that cannot be read is yielded as a ValueError.
    """
    folder = Path(source).expanduser()
    lines = {fields[0]: (fields[1], fields[4].strip()) for fields in _fields(folder / LINES) if len(fields) == 5}
    for number, fields in enumerate(_fields(folder / CONVERSATIONS), 1):
        chat = _chat(fields, lines)
        if isinstance(chat, ValueError) or len(chat["messages"]) > 1:
            yield f"{CONVERSATIONS}, line {number}", chat


def _fields(file: Path) -> Iterator[list[str]]:
    # Not splitlines: in this encoding some characters within lines would count as line ends.
    for line in file.read_text(encoding=ENCODING).split("\n"):
        if line:
            yield line.rstrip("\r").split(SEPARATOR)


def _chat(fields: list[str], lines: dict[str, tuple[str, str]]) -> dict | ValueError:
    if len(fields) != 4:
        return ValueError(f"has {len(fields)} fields, not 4")
    try:
        conversation = [lines[name] for name in ast.literal_eval(fields[3])]
    except (ValueError, SyntaxError, TypeError):
        return ValueError(f"has no list of lines but {fields[3][:40]!r}")
    except KeyError as error:
        return ValueError(f"names the line {error}, which {LINES} lacks")
    turns = groupby((line for line in conversation if line[1]), key=itemgetter(0))
    texts = ["\n".join(text for _, text in spoken) for _, spoken in turns]
    return {"messages": [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]}
