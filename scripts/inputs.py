"""Input of commands: a text in the command line, in a file, or through a pipe."""

import sys
from pathlib import Path


def read_text(text: str | None, file: str | None, what: str = "text") -> str:
    """Return the text of `--text`, of `--file` or of a pipe; ValueError unless there is exactly one."""
    if text is not None and file is not None:
        raise ValueError(f"There are two {what}s: give --{what} or --file, not both.")
    try:
        if text is None and file is not None:
            from ..data.preprocessing import decode

            text = decode(Path(file).expanduser().read_bytes(), file)
        elif text is None and not sys.stdin.isatty():
            text = sys.stdin.read()
    except UnicodeDecodeError:
        raise ValueError("The pipe has text that is not UTF-8: convert it, or give --file.") from None
    if not (text or "").strip():
        raise ValueError(f"There is no {what}: give --{what}, --file FILE, or a pipe.")
    return text
