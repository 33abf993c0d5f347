"""Write data to train on: Shakespeare's plays as text (1.1 MB), or as chats in which the characters answer each other.

folio data shakespeare
folio data dialogues --output chats.jsonl
"""

import json
from dataclasses import dataclass
from pathlib import Path

from ..jobs.options import option

PLAYS = Path(__file__).parents[1] / "notebooks" / "data" / "shakespeare.txt"
ROLES = ("user", "assistant") * 2  # in a chat


@dataclass
class DataFileArguments:
    output: str | None = option(None, "file to write (default: NAME.txt or .jsonl in this folder)")


def dialogues(plays: str) -> str:
    """Return chats as JSONL: consecutive speeches, with the roles of user and assistant in turn."""
    speeches = (speech.partition(":\n")[2].replace("\n", " ").strip() for speech in plays.split("\n\n"))
    lines = []
    for chat in zip(*[filter(None, speeches)] * len(ROLES), strict=False):  # as itertools.batched of Python 3.12
        messages = [{"role": role, "content": speech} for role, speech in zip(ROLES, chat, strict=True)]
        lines.append(json.dumps({"messages": messages}) + "\n")
    return "".join(lines)


DATA = {"shakespeare": ("shakespeare.txt", str), "dialogues": ("dialogues.jsonl", dialogues)}


def main(argv: list[str]) -> None:
    from ..evaluation.results import write_text
    from .arguments import parse

    name, args = parse(argv, [DataFileArguments], "folio data", __doc__, positional=["NAME"])
    if name not in DATA:
        raise ValueError(f"There is no data {name!r}: give {' or '.join(DATA)}.")
    if not PLAYS.is_file():
        raise FileNotFoundError("The plays are only in a clone: git clone https://github.com/foliogpt/foliogpt")
    default, make = DATA[name]
    text, file = make(PLAYS.read_text(encoding="utf-8")), Path(args.output or default).expanduser()
    if file.exists() and (not file.is_file() or file.read_text(encoding="utf-8", errors="replace") != text):
        raise FileExistsError(f"{file} exists with other content: give another --output.")
    write_text(file, text)
    print(f"{file}: {len(text.encode()):,} bytes")
