"""Texts that commands are given, in the command line, in a file, or through a pipe, and how any text is printed."""

import sys
from pathlib import Path

# What would steer the terminal: a model or a document may say anything.
CONTROL = dict.fromkeys([code for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"])


def read_text(text: str | None, file: str | None, what: str = "text") -> str:
    """The text of `--text`, or of `--file`, or of what comes through a pipe.

    Raises:
        ValueError: if there is none, or two, or what there is is not text.
        OSError: if the file cannot be read.
    """
    if text is not None and file is not None:
        raise ValueError(f"There are two {what}s: give --{what} or --file.")
    try:
        if text is None and file is not None:
            from ..data.preprocessing import decode

            text = decode(Path(file).expanduser().read_bytes(), file)
        elif text is None and not sys.stdin.isatty():
            text = sys.stdin.read()
    except UnicodeDecodeError:
        raise ValueError("What comes through the pipe is not text in UTF-8.") from None
    if not (text or "").strip():
        raise ValueError(f"There is no {what}: give --{what}, --file FILE, or some through a pipe.")
    return text
