"""Retrieval: how well it finds, how fast it indexes and searches.

    python -m benchmarks.rag --only scifact --data ../shared/data/scifact
    python -m benchmarks.rag --only manual
    python -m benchmarks.rag --only indexing
    python -m benchmarks.rag --only scale --chunks 200000

SciFact is a folder in BEIR's layout. The manual's questions are known-item: a docstring's first sentence, with the
object's name masked, must find the docstring that it was taken from. Indexes stay in --index_dir, where a second run
finds the vectors of the first.
"""

import gzip
import json
import math
import random
import re
from pathlib import Path

import numpy as np

from foliogpt.rag import Document, Rag
from foliogpt.rag.readers import manual_documents

from .tables import parser, show, write

MODES = ("dense", "lexical", "hybrid")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def ranked_documents(rag: Rag, query: str, mode: str, depth: int = 100) -> list[str]:
    """The documents of the passages found, each once."""
    return list(dict.fromkeys(hit.document for hit in rag.search(query, k=depth, mode=mode)))


def interval(values: list[float], rounds: int = 1000) -> str:
    """The mean and its 95 % interval, by bootstrap."""
    array, generator = np.array(values), np.random.default_rng(0)
    means = array[generator.integers(0, len(array), (rounds, len(array)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{array.mean():.3f} [{low:.3f}, {high:.3f}]"


def scifact(data: Path, index_dir: Path) -> list[dict]:
    with gzip.open(data / "corpus.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    queries = {row["_id"]: row["text"] for row in map(json.loads, (data / "queries.test.jsonl").open())}
    relevant: dict[str, dict[str, int]] = {}
    for line in (data / "qrels.test.tsv").read_text().splitlines()[1:]:
        query, document, grade = line.split("\t")
        relevant.setdefault(query, {})[document] = int(grade)
    rag = Rag.open(index_dir / "scifact")
    rag.sync(Document(row["_id"], f"{row['title']}\n\n{row['text']}", row["title"]) for row in rows)
    found = []
    for mode in MODES:
        rankings = {query: ranked_documents(rag, queries[query], mode) for query in relevant}
        gains = [ndcg(rankings[query], grades) for query, grades in relevant.items()]
        recalls = [recall(rankings[query], grades) for query, grades in relevant.items()]
        found.append({"mode": mode, "nDCG@10": interval(gains), "recall@10": interval(recalls)})
    return found


def ndcg(ranking: list[str], grades: dict[str, int], k: int = 10) -> float:
    gain = sum(grades.get(name, 0) / math.log2(rank + 2) for rank, name in enumerate(ranking[:k]))
    best = sorted(grades.values(), reverse=True)[:k]
    return gain / sum(grade / math.log2(rank + 2) for rank, grade in enumerate(best))


def recall(ranking: list[str], grades: dict[str, int], k: int = 10) -> float:
    return len(set(ranking[:k]) & set(grades)) / len(grades)


def known_items() -> tuple[list[Document], dict[str, str]]:
    """The manual without the sentences that are asked for, and those: name -> question."""
    documents, questions = [], {}
    for document in manual_documents():
        title, _, body = document.text.partition("\n\n")
        sentence, *rest = SENTENCE_END.split(body.strip(), maxsplit=1)
        own = document.title.rpartition(".")[2]
        if "topics/" in document.name or not rest or len(rest[0]) < 20 or len(sentence.split()) < 4:
            documents.append(document)
            continue
        question = re.sub(rf"\b{re.escape(own)}\b", "it", sentence)
        questions[document.name] = " ".join(question.split())[:1000]
        documents.append(Document(document.name, f"{title}\n\n{rest[0]}", document.title, document.metadata))
    return documents, questions


def manual(index_dir: Path, count: int) -> list[dict]:
    documents, questions = known_items()
    rag = Rag.open(index_dir / "known-items")
    rag.sync(documents)
    names = random.Random(0).sample(sorted(questions), min(count, len(questions)))
    found = []
    for mode in MODES:
        rankings = {name: ranked_documents(rag, questions[name], mode)[:10] for name in names}
        hits = [float(name in rankings[name]) for name in names]
        ranks = [1 / (rankings[name].index(name) + 1) if name in rankings[name] else 0.0 for name in names]
        found.append({"mode": mode, "recall@10": interval(hits), "MRR@10": interval(ranks)})
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", choices=["scifact", "manual"], required=True)
    options.add_argument("--data", type=Path, default=Path("../shared/data/scifact"))
    options.add_argument("--index_dir", type=Path, default=Path("runs/benchmark-rag"))
    options.add_argument("--questions", type=int, default=1000)
    chosen = options.parse_args()
    rows = (
        scifact(chosen.data, chosen.index_dir)
        if chosen.only == "scifact"
        else manual(chosen.index_dir, chosen.questions)
    )
    show(chosen.only, rows)
    write(chosen.json, {chosen.only: rows})


if __name__ == "__main__":
    main()
