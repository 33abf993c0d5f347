"""Citations in a model's output: it is split into sentences, and each citation is looked up in its source."""

import re
from collections.abc import Sequence

import regex

from . import sentences
from .answering import Citation, Passage, Sentence, escape_boundaries
from .lexical import STOP_WORDS, UNSPACED_LETTER, WORD, folded, spelled

SPACE = re.compile(r"\s+")
MARK = re.compile(r"[ \t]*\[(\d+)\]")
OPENING, CLOSING = '"“', '"”'
END_SIGN = rf"[{sentences.ENDS}{sentences.WIDE_ENDS}][{sentences.CLOSING}]*"
ENDS_SENTENCE = re.compile(rf"(?:{END_SIGN}(?:\s*\[\d+\])*[.,;]?|\[\d+\])$")
MAYBE_MARK = re.compile(r"\[\d*$")
LOWER = re.compile(r"[a-zß-öø-ÿ]")
CLUSTER = regex.compile(r"(?P<divided>(?<=\p{L}\p{M}*)-\n\s*(?=\p{L}))|\X")
DIVIDED = "\u00ad"  # for a hyphen at a line's end; `spelled` removes those of the text
WHOLE_SENTENCE = 4  # words from which on a sentence can be its own quotation
PUNCTUATION = " .,;:"


class SentenceSplitter:
    """A splitter of text that comes in pieces. Citations, or a quotation if it has none, follow their sentence."""

    def __init__(self) -> None:
        self.text, self.decided = "", 0

    def push(self, piece: str) -> list[str]:
        """Add a piece, and return the sentences that are complete now."""
        self.text += piece
        found = []
        while (end := self._end()) is not None:
            found.append(self.text[:end])
            self.text, self.decided = self.text[end:], 0
        return found

    def flush(self) -> list[str]:
        rest, self.text, self.decided = self.text, "", 0
        return [rest] if rest.strip() else []

    def _end(self) -> int | None:
        start = max(self.decided, len(self.text) - len(self.text.lstrip()))
        for space in SPACE.finditer(self.text, start):
            before, after = self.text[: space.start()], self.text[space.end() :]
            if not after or MAYBE_MARK.fullmatch(after):
                return None  # depends on the next piece
            quoting = before.count('"') % 2 or before.count("“") > before.count("”")
            if not MARK.match(after):
                if space.group().count("\n") > bool(quoting):
                    return space.start()
                continues = quoting or LOWER.match(after) or (after[0] in OPENING and not MARK.search(before))
                if not continues and ENDS_SENTENCE.search(before):
                    return space.start()
            self.decided = space.end()
        return None


def verified(text: str, sources: Sequence[Passage]) -> Sentence:
    """Return a sentence without its invalid citations and their quotation marks. `[1]` is `sources[0]`."""
    parts: list[str | Citation] = []  # from the last to the first: a quotation may contain marks of its document
    while marks := list(MARK.finditer(text)):
        before, mark, after = text[: marks[-1].start()], marks[-1], text[marks[-1].end() :]
        number = int(mark[1][:9])
        source = sources[number - 1] if 0 < number <= len(sources) else None
        own = before[marks[-2].end() if marks[1:] else 0 :].strip(PUNCTUATION + "\n")
        parts.append(after)
        close = len(before.rstrip(PUNCTUATION))
        is_quoted = before[:close].endswith(tuple(CLOSING))
        if source and is_quoted and (found := _quoted(before, close, source)):
            start, quotation, citation = found
            parts += [citation, f"{quotation} "]
            text = before[:start]
        elif source and len(own.split()) >= WHOLE_SENTENCE and (found := locate(own, source)):  # no marks
            parts += [found, " "]
            text = before
        else:  # the citation is invalid
            opening = max(before.rfind(sign, 0, close - 1) for sign in OPENING) if is_quoted else -1
            rest = before if opening < 0 else before[:opening] + before[opening + 1 : close - 1] + before[close:]
            text = rest + parts.pop()  # together they may look like another citation
    return Sentence(tuple(part for part in [text, *reversed(parts)] if part))


def _quoted(before: str, close: int, source: Passage) -> tuple[int, str, Citation] | None:
    """Return the start, text and citation of the quotation that ends at `close`; None if the source lacks it."""
    for opening in [i for i, sign in enumerate(before[: close - 1]) if sign in OPENING]:
        quote = before[opening + 1 : close - 1]
        for words in dict.fromkeys((quote, quote.rstrip(PUNCTUATION))):
            if found := locate(words, source):
                rest = quote[len(words) :].strip() + before[close:].rstrip()
                return opening, f'"{" ".join(found.quote.split())}"{rest}', found
    return None


def locate(quote: str, source: Passage) -> Citation | None:
    """Find words in a source, ignoring white space, case, hyphenation and Unicode forms; None if it lacks them."""
    if all(word.lower() in STOP_WORDS for word in WORD.findall(MARK.sub(" ", quote))):
        return None  # "of the" is in every source, and "[1]" says nothing
    text, places = _aligned(escape_boundaries(source.text))
    words = [word for part in quote.split() if (word := _aligned(part)[0])]
    pattern = r"\s+".join(f"{DIVIDED}?".join(map(re.escape, word)) for word in words).replace(r"\-", f"[-{DIVIDED}]")
    ends = (words[0][0], words[-1][-1])
    first, last = (r"\b" if WORD.match(sign) and not UNSPACED_LETTER.match(sign) else "" for sign in ends)
    found = re.search(first + pattern + last, text)
    return source.citation(places[found.start()][0], places[found.end() - 1][1]) if found else None


def _aligned(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Return a text in comparable form, with DIVIDED for a hyphen at a line's end, and the span of each character."""
    signs, places = [], []
    for found in CLUSTER.finditer(text):
        sign = DIVIDED if found["divided"] else folded(spelled(found.group()))
        signs += sign
        places += [found.span()] * len(sign)
    return "".join(signs), places
