"""An embedder of one's own beside MiniLM and BM25: from raw text to known items found in the Python manual.

    python -m benchmarks.embedder
    python -m benchmarks.embedder --model runs/base --max_steps 100

The sentences that are asked for are taken out of the manual before anything else: neither the checkpoint (250 steps of
`folio pretrain`, unless --model names one) nor the embedder has ever read them. What `folio embedder train` itself
measures, on held-out pairs, is in its report.json. All is kept in --folder, where a second run goes on.
"""

import json
import math
from pathlib import Path

from foliogpt.evaluation.bootstrap import Metric, interval, paired_interval
from foliogpt.rag import Rag
from foliogpt.rag.evaluation.datasets import Dataset
from foliogpt.rag.evaluation.known_items import known_items
from foliogpt.rag.readers import manual_documents
from foliogpt.scripts.cli import main as folio

from .tables import parser, show, write

ALL = 10_000  # known items: more than there are
FOLDER = Path("runs/benchmark-embedder")
MINILM_INDEX = "index-minilm"


def manual() -> Dataset:
    """All known items of the manual, and the manual without their sentences."""
    return known_items(manual_documents(), ALL)


def write_documents(path: Path, dataset: Dataset) -> None:
    """The documents as rows, which every command reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"title": document.title, "text": document.text} for document in dataset.documents]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(*argv: str) -> None:
    if code := folio(list(argv)):
        raise SystemExit(code)


def trained(folder: Path, documents: Path, model: str | None, steps: str) -> Path:
    """Train a checkpoint, unless one is given, and an embedder of it, unless they are there."""
    if model is None:
        model = str(folder / "base")
        if not Path(model, "config.json").exists():
            run("pretrain", "--corpus", str(documents), "--max_steps", "250", "--output_dir", model)
    result = folder / "embedder"
    if not (result / "config.json").exists():
        limit = ["--max_steps", steps] if steps else ["--num_train_epochs", "1"]
        run("embedder", "train", "--model", model, "--corpus", str(documents), "--output_dir", str(result), *limit)
    return result


def row(name: str, metric: Metric, words: Metric) -> dict:
    (low, high), (least, most) = interval(metric) or (math.nan,) * 2, paired_interval(words, metric) or (math.nan,) * 2
    difference = "" if metric is words else f"{metric.value - words.value:+.3f} [{least:+.3f}, {most:+.3f}]"
    return {"": name, "recall@10": f"{metric.value:.3f} [{low:.3f}, {high:.3f}]", "against BM25": difference}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--folder", type=Path, default=FOLDER)
    options.add_argument("--model", help="a checkpoint to begin with")
    options.add_argument("--max_steps", default="", help="of the embedder's training; an epoch by default")
    options.add_argument("--questions", type=int, default=1000)
    chosen = options.parse_args()
    dataset, documents = manual(), chosen.folder / "documents.jsonl"
    write_documents(documents, dataset)
    own = trained(chosen.folder, documents, chosen.model, chosen.max_steps)
    recalls = {}
    for name, index, embedder in (("all-MiniLM-L6-v2", MINILM_INDEX, None), ("your own", "index-own", own)):
        with Rag.open(chosen.folder / index, embedder=embedder) as rag:
            report = rag.evaluate(dataset, questions=chosen.questions)
        recalls |= {f"{name}, {mode}": metric for mode, metric in report.figures["recall@10"].items()}
    words = recalls.pop("all-MiniLM-L6-v2, lexical")
    del recalls["your own, lexical"]  # BM25 of passages that are cut at other places
    rows = [row("BM25", words, words), *(row(name, metric, words) for name, metric in recalls.items())]
    show("known items of the manual", rows, f"{report.questions:,} questions, {report.documents:,} documents.")
    training = json.loads((own / "report.json").read_text())
    write(chosen.json, {"known items": rows, "held-out pairs": training["metrics"], "seconds": training["seconds"]})


if __name__ == "__main__":
    main()
