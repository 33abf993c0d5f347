"""What an embedder is trained on: pairs of a text that is asked with and the text that it should find.

Of a corpus that nobody has asked anything yet, a passage is asked for by the title or heading that it stands under, and
by one of its own sentences, which is taken out of it (the inverse cloze task; K. Lee, M.-W. Chang and K. Toutanova,
"Latent Retrieval for Weakly Supervised Open Domain Question Answering", 2019).
"""

import random
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path, PurePath

from ...data.rows import read_rows
from ..chunking import CHUNK_TOKENS, CONTEXT_TOKENS, TokenStarts, chunk_document
from ..documents import Document
from ..readers import PYTHON_MANUAL, manual_documents
from ..readers.pool import ReaderPool
from ..sentences import PARAGRAPH_OR_SENTENCE_END as SENTENCE_END
from ..sources import find_files, name_of, read_file

ANCHORS, POSITIVES = ("anchor", "query", "question"), ("positive", "text", "answer")
TITLE, SENTENCE, GIVEN = "title", "sentence", "question"  # kinds of pairs
SENTENCES = 3  # of a passage that it is asked for by
WORDS = range(4, 61)  # in such a sentence
SAYS_SOMETHING = 40  # characters that must be left of the passage

HELD_OUT, MOST_HELD_OUT = 0.05, 500  # the share of sources, and how many at most
FEWEST = 4  # sources: two to learn from, and two to tell apart
MANY_DOCUMENTS = 100  # with fewer, a document's passages are held out one by one


@dataclass(frozen=True)
class Pair:
    """`anchor` should find `positive`, and not `negative`, if there is one.

    `source` is what it was made from: pairs of the same source are held out together.
    """

    anchor: str
    positive: str
    negative: str = ""
    kind: str = GIVEN
    source: str = ""


def load_documents(source: str, text_column: str = "text") -> list[Document]:
    """The documents of a file, a folder, or "python-manual", as `Rag.sync` reads them, but for what cannot be read."""
    if source == PYTHON_MANUAL:
        return manual_documents()
    root = Path(source).expanduser().resolve()
    if not source.strip() or not root.exists():
        raise FileNotFoundError(f'There is no file or folder {source!r}; give one, or "python-manual".')
    documents: list[Document] = []
    reason = "holds no text"
    with closing(ReaderPool()) as pool:
        for path in find_files(root)[0]:
            try:
                # Within the folder, so that what is held out is the same wherever the folder lies.
                name = name_of(path.relative_to(root if root.is_dir() else root.parent))
                documents += pool.read(PurePath(name), read_file(path, "").data, text_column)
            except (OSError, ValueError, ImportError) as error:
                reason = " ".join(str(error).split())
    if not documents:
        raise ValueError(f"{source} {reason}.")
    return documents


def corpus_pairs(
    documents: Sequence[Document], token_starts: TokenStarts, max_tokens: int, seed: int = 0
) -> list[Pair]:
    """Pairs of titles or headings and their passages, and of sentences and what is left of their passages.

    Passages are cut as an index cuts them with an embedder that sees `max_tokens` tokens.
    """
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
                if len(sentence.split()) in WORDS and len(rest) >= SAYS_SOMETHING:
                    seen = f"{chunk.context}\n{rest}" if chunk.context else rest  # as the embedder sees it
                    found.append(Pair(sentence, seen, kind=SENTENCE, source=source))
                start = following
            chance = random.Random(f"{seed} {document.name} {chunk.start}")
            pairs += chance.sample(found, min(SENTENCES, len(found)))
    return pairs


def read_pairs(source: str) -> list[Pair]:
    """Pairs from a file of rows: JSONL, JSON, CSV, TSV or Parquet, a folder of such files, or hub:NAME[:CONFIG].

    Its columns are anchor and positive, query and text, or question and answer, and perhaps negative. Raises ValueError
    with the place of a row that is no pair, and OSError if nothing is there or can be reached.
    """
    pairs = []
    for place, row in read_rows(source):
        if isinstance(row, ValueError):
            raise ValueError(f"{place} {row}: correct it.")
        columns = list(row) if isinstance(row, Mapping) else []
        names = [next((n for n in known if n in columns), None) for known in (ANCHORS, POSITIVES)]
        if None in names:
            has = f"only {', '.join(map(str, columns))[:200]}" if columns else "no columns"
            raise ValueError(
                f"{place} has {has}: give the columns anchor and positive (or query and text, question and answer), "
                "and negative if there is one."
            )
        names += ["negative"] * ("negative" in columns)
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
    """Part the pairs into those to learn from and those to judge by, by a hash of what they were made from."""
    sources = {pair.source for pair in pairs}
    sources = sorted(sources, key=lambda source: blake2b(source.encode(), digest_size=8).digest())
    if len(sources) < FEWEST:
        count = {0: "no pairs", 1: "one pair"}.get(len(pairs), f"{len(pairs)} pairs of {len(sources)} passages")
        raise ValueError(
            f"{where} gives {count} to train on: give at least {FEWEST} passages, with titles or sentences."
        )
    held_out = set(sources[: min(max(2, round(HELD_OUT * len(sources))), MOST_HELD_OUT)])
    train = [pair for pair in pairs if pair.source not in held_out]
    return train, [pair for pair in pairs if pair.source in held_out]
