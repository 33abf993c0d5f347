"""Search in other languages: XQuAD's paragraphs as documents, by our words, plain FTS5's, and an embedder's vectors.

    python -m benchmarks.languages --folder FOLDER
    python -m benchmarks.languages --folder FOLDER --languages en zh --embedder intfloat/multilingual-e5-small

FOLDER has xquad.en.json, xquad.zh.json ... of github.com/google-deepmind/xquad: the same 240 paragraphs and 1,190
questions in each language. The figure is nDCG@10.
"""

import json
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

from foliogpt.rag import Document, Rag
from foliogpt.rag.embedding import load_embedder
from foliogpt.rag.evaluation.evaluate import ndcg
from foliogpt.rag.lexical import WORD
from foliogpt.rag.retrieval import MODES

from .tables import parser, show, write

LANGUAGES = ("en", "de", "es", "tr", "vi", "el", "ru", "ar", "hi", "th", "zh")
DEPTH = 10


def read(path: Path) -> tuple[list[str], list[tuple[str, int]]]:
    """The paragraphs, and the questions, each with the number of its paragraph."""
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    questions = [(asked["question"], n) for n, paragraph in enumerate(paragraphs) for asked in paragraph["qas"]]
    return [paragraph["context"] for paragraph in paragraphs], questions


def mean_ndcg(search: Callable[[str], list[int]], questions: list[tuple[str, int]]) -> float:
    return sum(ndcg(search(question), {number: 1}, DEPTH) for question, number in questions) / len(questions)


def plain(paragraphs: list[str]) -> Callable[[str], list[int]]:
    """FTS5 with the tokenizer that most use, asked for any of the words."""
    db = sqlite3.connect(":memory:")
    db.execute("CREATE VIRTUAL TABLE words USING fts5 (text, tokenize = 'porter unicode61')")
    db.executemany("INSERT INTO words VALUES (?)", [[paragraph] for paragraph in paragraphs])
    query = "SELECT rowid - 1 FROM words WHERE words MATCH ? ORDER BY bm25(words) LIMIT ?"

    def search(question: str) -> list[int]:
        expression = " OR ".join(f'"{word}"' for word in WORD.findall(question))
        return [number for (number,) in db.execute(query, [expression, DEPTH])]

    return search


def language(path: Path, embedder) -> dict:
    paragraphs, questions = read(path)
    row = {"language": path.suffixes[0].strip("."), "FTS5, porter": mean_ndcg(plain(paragraphs), questions)}
    with tempfile.TemporaryDirectory() as folder, Rag.open(folder, embedder=embedder) as rag:
        rag.sync(Document(str(number), paragraph) for number, paragraph in enumerate(paragraphs))
        for mode in MODES:

            def search(question: str, mode: str = mode) -> list[int]:
                hits = rag.search(question, k=3 * DEPTH, mode=mode)  # a long paragraph is several passages
                return list(dict.fromkeys(int(hit.document) for hit in hits))

            row[mode] = mean_ndcg(search, questions)
    return row


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--folder", type=Path, required=True)
    options.add_argument("--languages", nargs="+", default=LANGUAGES)
    options.add_argument("--embedder", help="a directory or a name; all-MiniLM-L6-v2 by default")
    arguments = options.parse_args()
    embedder = load_embedder(arguments.embedder)
    rows = [language(arguments.folder / f"xquad.{name}.json", embedder) for name in arguments.languages]
    show(f"XQuAD, nDCG@10, {embedder.name}", rows)
    write(arguments.json, {"languages": rows})


if __name__ == "__main__":
    main()
