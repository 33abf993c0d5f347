"""Retrieval: how fast it indexes and searches, what survives, and what chunks by structure are worth.

How well it finds is for `folio rag eval` to say.

    python -m benchmarks.rag --only indexing
    python -m benchmarks.rag --only search
    python -m benchmarks.rag --only scale --chunks 200000
    python -m benchmarks.rag --only unchanged
    python -m benchmarks.rag --only kills
    python -m benchmarks.rag --only chunking --spans FOLDER

FOLDER is evaluation_framework/general_evaluation_data of github.com/brandonstarxel/chunking_evaluation: 472 questions
to five texts, in which somebody marked what answers them.

Indexes stay in --index_dir, where a second run finds the vectors of the first.
"""

import csv
import json
import math
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np

from foliogpt.evaluation.bootstrap import interval
from foliogpt.rag import Document, Rag
from foliogpt.rag.chunking import Chunk, TokenStarts, chunk_document
from foliogpt.rag.embedding import load_embedder
from foliogpt.rag.evaluation.datasets import Dataset, Question
from foliogpt.rag.evaluation.known_items import known_items
from foliogpt.rag.readers import manual_documents
from foliogpt.rag.store import Store

from .tables import parser, show, write

MODES = ("dense", "lexical", "hybrid")


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

    def reads(self, text: str) -> bool:
        return True

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
    """Warm searches of the manual, with its own sentences."""
    asked = [question.text for question in known_items(manual_documents(), 200).questions]
    with Rag.open(index_dir / "manual") as rag:
        rag.sync("python-manual")
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


def marked(folder: Path) -> Dataset:
    """The questions of a folder, once for each text that somebody marked as an answer."""
    documents = [Document(path.stem, path.read_bytes().decode()) for path in folder.glob("corpora/*.md")]
    questions = []
    with (folder / "questions_df.csv").open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            name = row["corpus_id"]
            for part, found in enumerate(json.loads(row["references"])):
                span = name, found["start_index"], found["end_index"]
                questions.append(Question(f"{number}-{part}", row["question"], {(name, 0): 1}, (span,)))
    return Dataset("marked", questions, documents)


def windows(document: Document, token_starts: TokenStarts, max_tokens: int) -> list[Chunk]:
    """Fixed windows of so many tokens, wherever they end."""
    text, cuts = document.text, token_starts(document.text)[::max_tokens]
    pairs = zip([0, *cuts[1:]], [*cuts[1:], len(text)], strict=True)
    return [Chunk(start, end, text[start:end], "", "", None) for start, end in pairs]


def chunking(folder: Path) -> list[dict]:
    """How often the whole of an answer is in one of the first five chunks."""
    rows = []
    for how, cut in (("by structure", chunk_document), ("fixed windows", windows)):
        with (
            mock.patch("foliogpt.rag.store.chunk_document", cut),
            tempfile.TemporaryDirectory() as index,
            Rag.open(index) as rag,
        ):
            report = rag.evaluate(marked(folder))
        row = {"chunks": how, "number": report.chunks, "answers": report.questions}
        for mode, figure in report.figures["span recall@5"].items():
            low, high = interval(figure) or (math.nan, math.nan)
            row[mode] = f"{figure.value:.3f} [{low:.3f}, {high:.3f}]"
        rows.append(row)
    return rows


KILLED = """
import sys
from benchmarks.rag import Rag, Synthetic
rag = Rag.open(sys.argv[1], embedder=Synthetic(with_minilm=False))
print("go", flush=True)
rag.sync(sys.argv[2], prune=True)
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
            rag.sync(files, prune=True)
            nothing_double = rag.verify().documents == len(list(files.iterdir())) + 1
    return [{"kills": count, "whole on the next open": recovered, "all files there, once, in the end": nothing_double}]


def main() -> None:
    options = parser(__doc__)
    jobs = {
        "indexing": lambda: indexing(chosen.documents),
        "search": lambda: search(chosen.index_dir),
        "scale": lambda: scale(chosen.index_dir, chosen.chunks),
        "unchanged": lambda: unchanged(chosen.index_dir),
        "kills": lambda: kills(20),
        "chunking": lambda: chunking(chosen.spans),
    }
    options.add_argument("--only", choices=jobs, required=True)
    options.add_argument("--index_dir", type=Path, default=Path("runs/benchmark-rag"))
    options.add_argument("--documents", type=int, default=1500)
    options.add_argument("--chunks", type=int, default=200_000)
    options.add_argument("--spans", type=Path, help="the folder for --only chunking")
    chosen = options.parse_args()
    if chosen.only == "chunking" and chosen.spans is None:
        options.error("--only chunking needs --spans FOLDER")
    rows = jobs[chosen.only]()
    show(chosen.only, rows)
    write(chosen.json, {chosen.only: rows})


if __name__ == "__main__":
    main()
