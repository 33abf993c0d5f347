"""What pretraining buys: a small model is taken to dialogues, summaries, instructions and labels, and compared with one
of the same shape that begins with fresh weights.

    python -m benchmarks.transfer --movies movie_dialogs --summaries dialogsum.jsonl --instructions instructions.json \
        --shakespeare shakespeare.txt

Everything is done by `folio pretrain`, `finetune` and `evaluate`, one process after another. Learning rates are tried
for each row and shown at their best, by the loss of the rows that are reported, which flatters all rows alike.
"""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

from .tables import parser, show, write

TASKS = ("dialogues", "summaries", "instructions", "labels")
STARTS = {  # row: (base, method, learning rates)
    "pretrained, full": ("base", "full", (3e-4, 1e-3)),
    "pretrained, LoRA": ("base", "lora", (3e-3, 1e-2)),
    "fresh weights, full": ("fresh", "full", (1e-3, 3e-3)),
}
PROMPT = "A: Where have you been?\nB:"
SEED = 0


def folio(*argv: str, **kwargs) -> None:
    """Run a command; its error is the benchmark's."""
    done = subprocess.run(
        [sys.executable, "-m", "foliogpt.scripts.cli", *map(str, argv)], capture_output=True, text=True, **kwargs
    )
    if done.returncode:
        sys.exit(f"folio {' '.join(map(str, argv))}\n{done.stderr}")


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def split(rows: list[dict], folder: Path, name: str, held_out: float = 0.1) -> tuple[Path, Path]:
    """Write rows as two JSON lines files, to train on and to judge by."""
    rows = list(rows)
    random.Random(SEED).shuffle(rows)
    count = round(held_out * len(rows))
    paths = folder / f"{name}.train.jsonl", folder / f"{name}.test.jsonl"
    for path, part in zip(paths, (rows[count:], rows[:count]), strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    return paths


def bases(folder: Path, minutes: float) -> None:
    """A model that was trained on the Python manual, and one of the same shape and tokenizer with fresh weights."""
    import transformers

    from foliogpt.modeling import FolioForCausalLM

    folio("pretrain", "--output_dir", folder / "base", "--minutes", minutes, "--seed", SEED)
    transformers.set_seed(SEED)
    model = FolioForCausalLM.from_pretrained(folder / "base")
    fresh = FolioForCausalLM(model.config)
    fresh.generation_config = model.generation_config
    fresh.save_pretrained(folder / "fresh")
    transformers.AutoTokenizer.from_pretrained(folder / "base").save_pretrained(folder / "fresh")


def tuned(folder: Path, task: str, name: str, row: str, data: tuple[Path, Path], *options) -> tuple[Path, dict]:
    """The best of a row's runs, by the loss of the held-out rows."""
    base, method, rates = STARTS[row]
    best, best_report = None, {}
    for rate in rates:
        run = folder / f"{name}-{base}-{method}-{rate:g}"
        argv = ["finetune", task, "--model", folder / base, "--data", data[0], "--validation_data", data[1]]
        argv += ["--method", method, "--learning_rate", rate, "--eval_strategy", "no", "--save_strategy", "no"]
        folio(*argv, "--seed", SEED, "--output_dir", run, *options)
        report = read(run / "report.json")
        if best is None or report["val_loss"] < best_report["val_loss"]:
            best, best_report = run, {**report, "rate": rate}
        else:
            shutil.rmtree(run)
    return best, best_report


def judged(model: Path, data, out: Path, *options) -> dict:
    """The figures of `folio evaluate`."""
    folio("evaluate", "--model", model, "--data", data, "--output", out, *options)
    return read(out)


def interval(figures: dict, name: str) -> str:
    """A figure with its 95 % interval."""
    low, high = figures[name]["interval"]
    return f"{figures[name]['value']:.3f} [{low:.3f}, {high:.3f}]"


def cost(report: dict) -> dict:
    """What a run took."""
    return {
        "rate": report["rate"],
        "trained": f"{report['trainable_parameters']:,}",
        "seconds": round(report["seconds"]["training"]),
        "peak MB": round(report["peak_memory_bytes"] / 1e6),
    }


def dialogues(folder: Path, args) -> list[dict]:
    """Bits per byte on films and on the manual: what is gained, and what is forgotten."""
    from foliogpt.data.formats import load_examples

    chats, _ = load_examples(str(args.movies))
    texts = [
        "\n".join(f"{'AB'[i % 2]}: {turn['content']}" for i, turn in enumerate(chat)) for chat in chats["messages"]
    ]
    data = split([{"text": text} for text in texts], folder, "dialogues")
    untouched = (folder / "base", {"rate": "", "trainable_parameters": 0, "seconds": {"training": 0}})
    rows = []
    for row in ("pretrained, as it was", *STARTS):
        new = row not in STARTS
        model, report = untouched if new else tuned(folder, "lm", "dialogues", row, data, "--num_train_epochs", 1)
        films = judged(model, data[1], folder / "films.json", "--task", "lm")
        manual = judged(model, "python-manual", folder / "manual.json", "--task", "lm", "--split", "validation")
        argv = ["generate", "--model", model, "--prompt", PROMPT, "--seed", SEED, "--max_new_tokens", 40]
        said = subprocess.run(
            [sys.executable, "-m", "foliogpt.scripts.cli", *map(str, argv)], capture_output=True, text=True, check=True
        ).stdout
        rows.append(
            {
                "": row,
                **({"rate": "", "trained": "0", "seconds": 0, "peak MB": ""} if new else cost(report)),
                "bits a byte, films": interval(films["figures"], "bits_per_byte"),
                "bits a byte, manual": interval(manual["figures"], "bits_per_byte"),
                "sample": " / ".join(said.removeprefix(PROMPT).split("\n"))[:90],
            }
        )
    return rows


def summaries(folder: Path, args) -> list[dict]:
    data = split(_rows(args.summaries), folder, "summaries", 0.2)
    rows = []
    for row in STARTS:
        model, report = tuned(folder, "sft", "summaries", row, data)
        loss = judged(model, data[1], folder / "loss.json", "--task", "sft")["figures"]
        rouge = judged(model, data[1], folder / "rouge.json", "--task", "summarize", "--max_new_tokens", 60)["figures"]
        names = {name.lower().replace("_", ""): name for name in rouge}
        rows.append(
            {
                "": row,
                **cost(report),
                "loss": interval(loss, "loss"),
                "ROUGE-1": interval(rouge, names["rouge1"]),
                "ROUGE-L": interval(rouge, names["rougel"]),
            }
        )
    return rows


def instructions(folder: Path, args) -> list[dict]:
    data = split(_rows(args.instructions), folder, "instructions")
    rows = []
    for row in STARTS:
        model, report = tuned(folder, "sft", "instructions", row, data)
        loss = judged(model, data[1], folder / "loss.json", "--task", "sft")["figures"]
        rows.append({"": row, **cost(report), "loss": interval(loss, "loss")})
    return rows


def labels(folder: Path, args) -> list[dict]:
    """Is a line Shakespeare's, or from a film? Beside TF-IDF and logistic regression."""
    from foliogpt.data.formats import load_examples

    chats, _ = load_examples(str(args.movies))
    films = [turn["content"] for chat in chats["messages"] for turn in chat]
    plays = [line for line in args.shakespeare.read_text(encoding="utf-8").splitlines() if not line.endswith(":")]
    draw = random.Random(SEED)
    kinds = {"film": films, "play": plays}
    rows = [
        {"text": text, "label": kind}
        for kind, lines in kinds.items()
        for text in draw.sample(sorted({line.strip() for line in lines if 20 <= len(line) <= 80}), 1500)
    ]
    data = split(rows, folder, "labels", 0.25)
    table, baseline = [], None
    for row in STARTS:
        model, report = tuned(folder, "classify", "labels", row, data)
        found = judged(model, data[1], folder / "labels.json", "--train_data", data[0])["figures"]
        table.append({"": row, **cost(report), "accuracy": interval(found, "accuracy")})
        (baseline,) = (
            entry for name, entry in found["accuracy"].items() if "TF" in name and not name.startswith("difference")
        )
    text = interval({"accuracy": baseline}, "accuracy")
    table.append({"": "TF-IDF, logistic regression", **dict.fromkeys(list(table[0])[1:-1], ""), "accuracy": text})
    return table


def _rows(path: Path) -> list[dict]:
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]


def main() -> None:
    options = parser(__doc__)
    for name in ("movies", "summaries", "instructions", "shakespeare"):
        options.add_argument(f"--{name}", type=Path, required=True)
    options.add_argument("--output_dir", type=Path, default=Path("runs/transfer"), help="where the models are kept")
    options.add_argument("--minutes", type=float, default=3.0, help="of pretraining")
    options.add_argument("--only", choices=TASKS)
    args = options.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    if not (args.output_dir / "fresh" / "config.json").exists():
        bases(args.output_dir, args.minutes)
    found = {}
    for name in TASKS if args.only is None else [args.only]:
        found[name] = globals()[name](args.output_dir, args)
        show(name, found[name], "95 % intervals in brackets.")
    write(args.json, found)


if __name__ == "__main__":
    main()
