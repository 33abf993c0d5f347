"""An embedder of one's own beside MiniLM and BM25: from raw text to known items found in the Python manual.

    python -m benchmarks.embedder
    python -m benchmarks.embedder --model runs/base --max_steps 100

The sentences that are asked for are taken out of the manual before anything else: neither the checkpoint (250 steps of
`folio pretrain`, unless --model names one) nor the embedder has ever read them. What `folio embedder train` itself
measures, on held-out pairs, is in its report.json. All is kept in --folder, where a second run goes on.
"""

import json
from pathlib import Path

from foliogpt.rag import Rag
from foliogpt.rag.known_items import known_items
from foliogpt.rag.readers import manual_documents
from foliogpt.scripts.cli import main as folio
from foliogpt.training.metrics.bootstrap import interval, mean, paired_interval

from .tables import parser, show, write

DEPTH = 50  # passages, of which the first ten sections count


def found(rag: Rag, dataset, mode: str) -> list[float]:
    """For each question whether its section is among the first ten."""
    hits = []
    for question in dataset.questions:
        passages = rag.search(question.text, k=DEPTH, mode=mode)
        places = list(dict.fromkeys(place for hit in passages for place in dataset.places(hit)))
        hits.append(float(not question.relevant.keys().isdisjoint(places[:10])))
    return hits


def run(*argv: str) -> None:
    if code := folio(list(argv)):
        raise SystemExit(code)


def embedder(folder: Path, documents: Path, model: str | None, steps: str) -> Path:
    """Train a checkpoint, unless one is given, and an embedder of it, unless they are there."""
    if model is None:
        model = str(folder / "base")
        if not Path(model, "config.json").exists():
            run("pretrain", "--corpus", str(documents), "--max_steps", "250", "--output_dir", model)
    result = folder / "embedder"
    if not (result / "config.json").exists():
        limit = ["--max_steps", steps] if steps else []
        run("embedder", "train", "--model", model, "--corpus", str(documents), "--output_dir", str(result), *limit)
    return result


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--folder", type=Path, default=Path("runs/benchmark-embedder"))
    options.add_argument("--model", help="a checkpoint to begin with")
    options.add_argument("--max_steps", default="", help="of the embedder's training; an epoch by default")
    options.add_argument("--questions", type=int, default=1000)
    chosen = options.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    dataset = known_items(manual_documents(), chosen.questions)
    documents = chosen.folder / "documents.jsonl"
    rows = [{"title": d.title, "text": d.text} for d in dataset.documents]
    documents.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = embedder(chosen.folder, documents, chosen.model, chosen.max_steps)
    recalls = {}
    for name, path in (("all-MiniLM-L6-v2", None), ("your own", own)):
        with Rag.open(chosen.folder / f"index-{path.name if path else 'minilm'}", embedder=path) as rag:
            rag.sync(dataset.documents, delete_missing=True)
            for mode in ("lexical", "dense", "hybrid"):
                recalls[f"{name}, {mode}"] = found(rag, dataset, mode)
    rows = []
    for name, values in recalls.items():
        metric = mean("recall@10", values)
        low, high = interval(metric)
        rows.append({"": name, "recall@10": f"{metric.value:.3f} [{low:.3f}, {high:.3f}]"})
        if name.endswith("hybrid"):
            words = mean("recall@10", recalls["all-MiniLM-L6-v2, lexical"])
            low, high = paired_interval(words, metric)
            rows[-1]["against BM25"] = f"{metric.value - words.value:+.3f} [{low:+.3f}, {high:+.3f}]"
        else:
            rows[-1]["against BM25"] = ""
    report = json.loads((own / "report.json").read_text())
    show(
        "known items of the manual",
        rows,
        f"{len(dataset.questions):,} questions, {len(dataset.documents):,} documents.",
    )
    write(chosen.json, {"known items": rows, "held-out pairs": report["metrics"], "seconds": report["seconds"]})


if __name__ == "__main__":
    main()
