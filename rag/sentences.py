"""Where sentences end: chunks are cut there, answers quote sentences, and questions are made of them.

A text that is written piece by piece and has citations in it is cut by `citations.Sentences`, with the same signs.
"""

import re
from itertools import pairwise

ENDS, WIDE_ENDS = ".!?…", "。！？"  # no space follows the wide ones
CLOSING = "\"'”’)\\]"  # what may stand between the end and the space; for use within [] of a pattern

PARAGRAPHS = r"\n\s*\n\s*"
SENTENCES = rf"(?<=[{ENDS}])[{CLOSING}]*\s+(?=[^\sa-z])|(?<=[{WIDE_ENDS}])"
PARAGRAPH_END, SENTENCE_END = re.compile(PARAGRAPHS), re.compile(SENTENCES)
PARAGRAPH_OR_SENTENCE_END = re.compile(f"{PARAGRAPHS}|{SENTENCES}")

# What may be quoted ends before an item of a list and before an example, too, and not after an abbreviation. Chunks are
# cut without these rules, since other cuts would make every index anew.
ITEMS = r"\n\s*(?=[-*•]\s|\d+[.)]\s|:\w|@\w|>>>|\.\.\s)"
NO_ABBREVIATION = r"(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\beg\.)(?<!\bcf\.)"
BLOCK_END = re.compile(f"{PARAGRAPHS}|{ITEMS}")
QUOTE_END = re.compile(f"{PARAGRAPHS}|{ITEMS}|{NO_ABBREVIATION}(?:{SENTENCES})")
HEADING = re.compile(r"^#+ |^([!-/:-@\[-`{-~])\1{3,}\s*$", re.MULTILINE)
LONGEST = 400  # characters
FEWEST_WORDS = 3


def sentences(text: str) -> list[tuple[int, int]]:
    """Where the sentences of a passage are: those that say something, if there are any. What is too long is cut."""
    cuts = [0, *(found.end() for found in QUOTE_END.finditer(text)), len(text)]
    spans, telling = [], []
    for left, right in pairwise(cuts):
        words = list(re.finditer(r"\S+", text[left:right]))
        if not words:
            continue
        start = words[0].start()
        ends = [word.end() for word in words if word.end() - start <= LONGEST] or [start + LONGEST]
        spans.append((left + start, left + ends[-1]))
        if len(ends) >= FEWEST_WORDS and not HEADING.search(text[left:right]):
            telling.append(spans[-1])
    return telling or spans
