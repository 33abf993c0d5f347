"""The ends of sentences, for chunks, quotations and generated questions."""

import re
from itertools import pairwise

ENDS, WIDE_ENDS = ".!?…", "。！？"  # no space follows the wide ones
CLOSING = "\"'”’)\\]"  # between the end and the space; for use within [] of a pattern

PARAGRAPHS = r"\n\s*\n\s*"
SENTENCES = rf"(?<=[{ENDS}])[{CLOSING}]*\s+(?=[^\sa-z])|(?<=[{WIDE_ENDS}])"
PARAGRAPH_END, SENTENCE_END = re.compile(PARAGRAPHS), re.compile(SENTENCES)
PARAGRAPH_OR_SENTENCE_END = re.compile(f"{PARAGRAPHS}|{SENTENCES}")

# Quotations also end before an item of a list and before an example, and not after an abbreviation. Chunks are cut
# without these rules, because other cuts would change every index.
ITEMS = r"\n\s*(?=[-*•]\s|\d+[.)]\s|:\w|@\w|>>>|\.\.\s)"
NO_ABBREVIATION = r"(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\beg\.)(?<!\bcf\.)"
BLOCK_END = re.compile(f"{PARAGRAPHS}|{ITEMS}")
QUOTE_END = re.compile(f"{PARAGRAPHS}|{ITEMS}|{NO_ABBREVIATION}(?:{SENTENCES})")
HEADING = re.compile(r"^#+ |^([!-/:-@\[-`{-~])\1{3,}\s*$", re.MULTILINE)
MAX_CHARACTERS, MIN_WORDS = 400, 3  # of a sentence


def sentences(text: str) -> list[tuple[int, int]]:
    """Return the spans of a passage's complete sentences, or of all parts if there are none. Long ones are cut."""
    cuts = [0, *(found.end() for found in QUOTE_END.finditer(text)), len(text)]
    spans, complete = [], []
    for left, right in pairwise(cuts):
        words = list(re.finditer(r"\S+", text[left:right]))
        if not words:
            continue
        start = words[0].start()
        ends = [word.end() for word in words if word.end() - start <= MAX_CHARACTERS] or [start + MAX_CHARACTERS]
        spans.append((left + start, left + ends[-1]))
        if len(ends) >= MIN_WORDS and not HEADING.search(text[left:right]):
            complete.append(spans[-1])
    return complete or spans
