"""Streams that print text only: a model, a document or a file name cannot control the terminal.

All of `folio` prints through them. Control characters are shown as `\\u001b`, which keeps lines of JSON valid.
Characters that the terminal's encoding does not have are replaced.
"""

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator

CONTROL = {code: f"\\u{code:04x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
CONTROL[ord("\r")] = ""
PROGRESS = re.compile(r"(?:[\r\n]|\x1b\[[AK])+")  # the movements of progress bars, which are separate writes


class TextStream:
    """A stream that writes text, line ends, tabs and, with `bars`, a progress bar's movements; escapes the rest."""

    def __init__(self, stream, bars: bool):
        self._stream, self._bars = stream, bars
        self._encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        if not (self._bars and PROGRESS.fullmatch(text)):
            back = "\r" if self._bars and text.startswith("\r") else ""
            text = back + text.translate(CONTROL).encode(self._encoding, "backslashreplace").decode(self._encoding)
        return self._stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


@contextlib.contextmanager
def text_streams(own_colors: bool = False) -> Iterator[None]:
    """Print through `TextStream`s until the block ends; with `own_colors`, stderr alone."""
    streams = sys.stdout, sys.stderr
    sys.stderr = TextStream(sys.stderr, bars=True)
    if not own_colors:
        sys.stdout = TextStream(sys.stdout, bars=False)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
