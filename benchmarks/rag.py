"""Retrieval: how well it finds, how fast it indexes and searches, and what survives.

    python -m benchmarks.rag --only scifact --data ../shared/data/scifact
    python -m benchmarks.rag --only manual
    python -m benchmarks.rag --only indexing
    python -m benchmarks.rag --only search
    python -m benchmarks.rag --only scale --chunks 200000
    python -m benchmarks.rag --only unchanged
    python -m benchmarks.rag --only kills

SciFact is a folder in BEIR's layout. The manual's questions are known-item: a docstring's first sentence, with the
object's name masked, must find the docstring that it was taken from, if that says something beside it. Indexes stay in
--index_dir, where a second run finds the vectors of the first.
"""

import gzip
import json
import math
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from foliogpt.rag import Document, Rag
from foliogpt.rag.embedding import load_embedder
from foliogpt.rag.readers import manual_documents
from foliogpt.rag.store import Store

from .tables import parser, show, write

MODES = ("dense", "lexical", "hybrid")
SAYS_SOMETHING = 200  # characters that a docstring must have beside its first sentence, to be asked for
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
        if "topics/" in document.name or not rest or len(rest[0]) < SAYS_SOMETHING or len(sentence.split()) < 4:
            documents.append(document)
            continue
        question = re.sub(rf"\b{re.escape(own)}\b", "it", sentence)
        questions[document.name] = " ".join(question.split())[:1000]
        documents.append(Document(document.name, f"{title}\n\n{rest[0]}", document.title, document.metadata))
    return documents, questions


def manual(index_dir: Path, count: int) -> list[dict]:
    documents, questions = known_items()
    rag = Rag.open(index_dir / "known-items")
    rag.sync(documents, delete_missing=True)
    names = random.Random(0).sample(sorted(questions), min(count, len(questions)))
    found = []
    for mode in MODES:
        rankings = {name: ranked_documents(rag, questions[name], mode)[:10] for name in names}
        hits = [float(name in rankings[name]) for name in names]
        ranks = [1 / (rankings[name].index(name) + 1) if name in rankings[name] else 0.0 for name in names]
        found.append({"mode": mode, "recall@10": interval(hits), "MRR@10": interval(ranks)})
    return found


def indexing(count: int) -> list[dict]:
    """Documents a second through `sync`, beside the embedder alone on the same texts, in turns."""
    embedder = load_embedder()
    embedder.use(embedder.faster_dtype())
    documents = random.Random(0).sample(manual_documents(), count)
    chunks = [chunk for d in documents for chunk in Store(Path(), None, embedder).chunks(d, embedder)]
    texts = list(dict.fromkeys(chunk.embedded_text for chunk in chunks))
    rates: dict[str, list[float]] = {"embedder alone": [], "sync": []}
    for _ in range(2):
        start = time.perf_counter()
        embedder.encode(texts)
        rates["embedder alone"].append(len(texts) / (time.perf_counter() - start))
        with tempfile.TemporaryDirectory() as folder, Rag.open(folder, embedder=embedder) as rag:
            start = time.perf_counter()
            rag.sync(documents)
            rates["sync"].append(len(texts) / (time.perf_counter() - start))
    best = {name: max(found) for name, found in rates.items()}
    share = best["sync"] / best["embedder alone"]
    return [
        {
            "dtype": embedder.dtype,
            "chunks": len(texts),
            **{f"{k}, chunks/s": v for k, v in best.items()},
            "share": share,
        }
    ]


class Synthetic:
    """Vectors in clusters, one for each topic word, at the cost of no model; questions cost what MiniLM's do."""

    name = hash = "synthetic"
    dtype, max_tokens = "float32", 254

    def __init__(self, with_minilm: bool = True) -> None:
        self.minilm = load_embedder() if with_minilm else None
        self.centres = np.random.default_rng(0).normal(size=(500, 384))

    def encode(self, texts: list[str]) -> np.ndarray:
        topics = [int(text.rpartition(" ")[2]) for text in texts]
        vectors = self.centres[topics] + 0.8 * np.random.default_rng(len(texts)).normal(size=(len(texts), 384))
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f4")

    def encode_query(self, query: str) -> np.ndarray:
        if self.minilm is not None:
            self.minilm.encode_query(query)
        return self.encode([query])[0]

    def token_starts(self, text: str) -> list[int]:
        return [found.start() for found in re.finditer(r"\S+", text)]


def synthetic(count: int):
    """Documents of one chunk each, in words as frequent as a language's, that end with their topic."""
    generator = np.random.default_rng(1)
    for number in range(count):
        words = " ".join(f"w{rank}" for rank in np.minimum(generator.zipf(1.3, 80), 50_000))
        yield Document(f"d{number}", f"{words} {number % 500}")


def latency(rag: Rag, questions: list[str], size: int, mode: str = "hybrid") -> dict:
    for question in questions[:5]:
        rag.search(question, mode=mode)
    times = []
    embedding = []
    for question in questions:
        start = time.perf_counter()
        rag.search(question, mode=mode)
        times.append(1000 * (time.perf_counter() - start))
        start = time.perf_counter()
        rag._store.embedder.encode_query(question)
        embedding.append(1000 * (time.perf_counter() - start))
    p50, p95 = np.percentile(times, [50, 95])
    row = {"chunks": f"{size:,}", "mode": mode, "p50 ms": float(p50), "p95 ms": float(p95)}
    return row | {"embedding the question alone, p95 ms": float(np.percentile(embedding, 95))}


def search(index_dir: Path) -> list[dict]:
    """Warm searches of the manual, with its own questions."""
    _, questions = known_items()
    asked = random.Random(1).sample(sorted(questions.values()), 200)
    with Rag.open(index_dir / "known-items") as rag:
        return [latency(rag, asked, rag._store.catalog.counts()[1], mode) for mode in MODES]


def scale(index_dir: Path, count: int) -> list[dict]:
    generator = np.random.default_rng(2)
    asked = [" ".join(f"w{rank}" for rank in generator.integers(2, 2000, 8)) + f" {topic}" for topic in range(100)]
    with Rag.open(index_dir / f"synthetic-{count}", embedder=Synthetic()) as rag:
        rag.sync(synthetic(count))
        return [latency(rag, asked, count, mode) for mode in MODES]


def unchanged(index_dir: Path, count: int = 6000) -> list[dict]:
    """A folder that was indexed, and is looked at again."""
    files = index_dir / "files"
    files.mkdir(parents=True, exist_ok=True)
    for document in synthetic(count):
        if not (files / f"{document.name}.txt").exists():
            (files / f"{document.name}.txt").write_text(document.text)
    rows = []
    with Rag.open(index_dir / "unchanged", embedder=Synthetic(with_minilm=False)) as rag:
        for what in ("first", "second", "third"):
            start = time.perf_counter()
            report = rag.sync(files)
            seconds = time.perf_counter() - start
            rows.append({"sync": what, "seconds": seconds, "unchanged": report.unchanged, "embedded": report.embedded})
    return rows


KILLED = """
import sys
from benchmarks.rag import Rag, Synthetic
rag = Rag.open(sys.argv[1], embedder=Synthetic(with_minilm=False))
print("go", flush=True)
rag.sync(sys.argv[2], delete_missing=True)
"""


def kills(count: int) -> list[dict]:
    """A sync of 3,000 files, half of which changed, is killed at a random moment; whoever is next compares all."""
    chance = random.Random(0)
    recovered = nothing_double = 0
    embedder = Synthetic(with_minilm=False)
    with tempfile.TemporaryDirectory() as name:
        files, index = Path(name, "files"), Path(name, "index")
        files.mkdir()
        documents = list(synthetic(3000))
        with Rag.open(index, embedder=embedder) as rag:
            for turn in range(count):
                for document in chance.sample(documents, 1500):
                    (files / f"{document.name}.txt").write_text(f"turn{turn} {document.text}")
                for path in chance.sample(sorted(files.iterdir()), 100):
                    path.unlink()
                process = subprocess.Popen([sys.executable, "-c", KILLED, index, files], stdout=subprocess.PIPE)
                process.stdout.readline()
                time.sleep(chance.uniform(0, 4))
                process.kill()
                process.wait()
                rag.sync([Document("another", f"one more {turn} 1")])
                report = rag.verify()
                recovered += report.ok
                print(turn, report, flush=True)
            rag.sync(files, delete_missing=True)
            nothing_double = rag.verify().documents == len(list(files.iterdir())) + 1
    return [{"kills": count, "whole on the next open": recovered, "all files there, once, in the end": nothing_double}]


def main() -> None:
    options = parser(__doc__)
    jobs = {
        "scifact": lambda: scifact(chosen.data, chosen.index_dir),
        "manual": lambda: manual(chosen.index_dir, chosen.questions),
        "indexing": lambda: indexing(chosen.documents),
        "search": lambda: search(chosen.index_dir),
        "scale": lambda: scale(chosen.index_dir, chosen.chunks),
        "unchanged": lambda: unchanged(chosen.index_dir),
        "kills": lambda: kills(20),
    }
    options.add_argument("--only", choices=jobs, required=True)
    options.add_argument("--data", type=Path, default=Path("../shared/data/scifact"))
    options.add_argument("--index_dir", type=Path, default=Path("runs/benchmark-rag"))
    options.add_argument("--questions", type=int, default=1000)
    options.add_argument("--documents", type=int, default=1500)
    options.add_argument("--chunks", type=int, default=200_000)
    chosen = options.parse_args()
    rows = jobs[chosen.only]()
    show(chosen.only, rows)
    write(chosen.json, {chosen.only: rows})


if __name__ == "__main__":
    main()
