"""Training pairs of an embedding model: a query, and the text that it should find.

A corpus without queries gives them itself: the query for a passage is its title or heading, or one of its sentences,
which is removed from the passage (the inverse cloze task; K. Lee, M.-W. Chang and K. Toutanova, "Latent Retrieval for
Weakly Supervised Open Domain Question Answering", 2019).
"""

import random
from contextlib import closing
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path, PurePath

from ..chunking import CHUNK_TOKENS, CONTEXT_TOKENS, TokenStarts, chunk_document
from ..documents import Document
from ..evaluation.datasets import read_mappings
from ..readers import PYTHON_MANUAL, manual_documents
from ..readers.pool import ReaderPool
from ..sentences import PARAGRAPH_OR_SENTENCE_END as SENTENCE_END
from ..sources import find_files, name_of, read_file

ANCHORS, POSITIVES = ("anchor", "query", "question"), ("positive", "text", "answer")
TITLE, SENTENCE, GIVEN = "title", "sentence", "question"  # kinds of pairs
SENTENCES = 3  # queries made of a passage's sentences
WORDS = range(4, 61)  # in such a sentence
MIN_PASSAGE_CHARACTERS = 40  # that are left without the sentence

HELD_OUT, MAX_HELD_OUT = 0.05, 500  # the share of sources, and their number at most
MIN_SOURCES = 4  # two to train on, and two to evaluate on
MANY_DOCUMENTS = 100  # with fewer, single passages are held out instead of documents


@dataclass(frozen=True)
class Pair:
    """A query `anchor` that should find `positive`, and not `negative`; pairs of one `source` are held out together."""

    anchor: str
    positive: str
    negative: str = ""
    kind: str = GIVEN
    source: str = ""


def load_documents(source: str, text_column: str = "text") -> list[Document]:
    """Read the documents of a file, a folder or "python-manual" as `Rag.sync` does; skip what cannot be read."""
    if source == PYTHON_MANUAL:
        return manual_documents()
    root = Path(source).expanduser().resolve()
    if not source.strip() or not root.exists():
        raise FileNotFoundError(f'There is no file or folder {source!r}; give one, or "python-manual".')
    documents, reason = [], "holds no text"
    with closing(ReaderPool()) as pool:
        for path in find_files(root)[0]:
            # A name relative to the folder: the split does not change if the folder is moved.
            name = PurePath(name_of(path.relative_to(root if root.is_dir() else root.parent)))
            try:
                documents += pool.read(name, read_file(path, "").data, text_column)
            except (OSError, ValueError, ImportError) as error:
                reason = " ".join(str(error).split())
    if not documents:
        raise ValueError(f"{source} {reason}.")
    return documents


def corpus_pairs(documents: list[Document], token_starts: TokenStarts, max_tokens: int, seed: int = 0) -> list[Pair]:
    """Pair headings with passages, which are an index's for `max_tokens`, and sentences with the rest of passages."""
    size = min(CHUNK_TOKENS, max(max_tokens - CONTEXT_TOKENS, 16))
    pairs = []
    for document in documents:
        for chunk in chunk_document(document, token_starts, size):
            source = document.name if len(documents) >= MANY_DOCUMENTS else f"{document.name}:{chunk.start}"
            title = chunk.heading.rpartition(" > ")[2] or document.title
            if title.strip() and title.strip() != chunk.text:
                pairs.append(Pair(title.strip(), chunk.text, kind=TITLE, source=source))
            found, start = [], 0
            for end, following in [*(m.span() for m in SENTENCE_END.finditer(chunk.text)), (len(chunk.text),) * 2]:
                sentence = " ".join(chunk.text[start:end].split())
                rest = f"{chunk.text[:start]}{chunk.text[following:]}".strip()
                if len(sentence.split()) in WORDS and len(rest) >= MIN_PASSAGE_CHARACTERS:
                    positive = f"{chunk.context}\n{rest}" if chunk.context else rest  # as an index embeds it
                    found.append(Pair(sentence, positive, kind=SENTENCE, source=source))
                start = following
            pairs += random.Random(f"{seed} {document.name} {chunk.start}").sample(found, min(SENTENCES, len(found)))
    return pairs


def read_pairs(source: str) -> list[Pair]:
    """Read pairs from rows: a JSONL, JSON, CSV, TSV or Parquet file, a folder of such files, or hub:NAME[:CONFIG]."""
    pairs = []
    for place, row in read_mappings(source):
        names = [next((name for name in known if name in row), None) for known in (ANCHORS, POSITIVES)]
        if None in names:
            remedy = "give anchor and positive, query and text, or question and answer"
            raise ValueError(f"{place} has only the columns {', '.join(map(str, row))[:200]}: {remedy}.")
        names += ["negative"] * ("negative" in row)
        for name in names:
            if not isinstance(row[name], str) or not row[name].strip():
                remedy = "give each row one, or none of them" if name == "negative" else "correct it"
                raise ValueError(f"{place} has {str(row[name])[:40]!r} as {name}, not a text: {remedy}.")
        pairs.append(Pair(*(row[name] for name in names), source=row[names[1]]))
    with_negative = sum(bool(pair.negative) for pair in pairs)
    if 0 < with_negative < len(pairs):
        raise ValueError(f"{with_negative} of the {len(pairs)} rows of {source} have a negative: give all of them one.")
    return pairs


def hold_out(pairs: list[Pair], where: str) -> tuple[list[Pair], list[Pair]]:
    """Split pairs into those to train on and those to evaluate on, by a hash of their sources."""
    sources = sorted({pair.source for pair in pairs}, key=lambda each: blake2b(each.encode(), digest_size=8).digest())
    if len(sources) < MIN_SOURCES:
        count = {0: "no pairs", 1: "one pair"}.get(len(pairs), f"{len(pairs)} pairs of {len(sources)} passages")
        raise ValueError(f"{where} gives {count}: give at least {MIN_SOURCES} passages, with titles or sentences.")
    held_out = set(sources[: min(max(2, round(HELD_OUT * len(sources))), MAX_HELD_OUT)])
    train = [pair for pair in pairs if pair.source not in held_out]
    return train, [pair for pair in pairs if pair.source in held_out]
