"""What it costs that a run survives: the start of a resumed run, and the writing of checkpoints.

    python -m benchmarks.resume --corpus shakespeare.txt
    python -m benchmarks.resume --corpus shakespeare.txt --only start

Each start is a process of its own, from its beginning until its first training step; the corpus is tokenised, the
tokenizer is given, and nothing is timed to choose the precision, all of which would slow a fresh start alone. Run it
with nothing else going on.
"""

import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .tables import parser, show, write

PARTS = ("start", "checkpoints")
STEPS = 20  # of the run that is saved at the default interval
COMMON = ["--block_size", "256", "--bf16", "false", "--eval_strategy", "no"]
UNTIL = """
import os, sys
from foliogpt.scripts.cli import main
from foliogpt.training import pretraining, trainer
owner = {"training_step": trainer.FolioTrainer, "evaluate_and_save": pretraining}[sys.argv[1]]
setattr(owner, sys.argv[1], lambda *args: os._exit(99))
main(sys.argv[2:])
"""


def folio(*argv: str) -> None:
    subprocess.run([sys.executable, "-m", "foliogpt.scripts.cli", *argv], check=True, capture_output=True)


def seconds_until(function: str, *argv: str) -> float:
    """From the start of a process to its first call of a function, which ends it."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", UNTIL, function, *argv], capture_output=True, text=True)
    if done.returncode != 99:
        raise RuntimeError(done.stderr)
    return time.perf_counter() - start


def starts(corpus: str, folder: Path, rounds: int) -> list[dict]:
    """Seconds to the first step, fresh and resumed, in turns."""
    nano = ["--max_steps", "300", "--block_size", "64", "--per_device_train_batch_size", "4"]
    cases = {
        "mini, after 2 steps": ["--size", "mini", "--max_steps", "2", "--per_device_train_batch_size", "2"],
        "nano, after 300 steps": nano,
        "nano, after 300 steps of a stream": [*nano, "--streaming"],
    }
    rows = []
    for name, options in cases.items():
        text = corpus
        if "--streaming" in options:
            text = str(folder / "rows.jsonl")
            lines = Path(corpus).read_text(encoding="utf-8").splitlines()
            Path(text).write_text("".join(json.dumps({"text": line}) + "\n" for line in lines if line))
        command = ["pretrain", "--corpus", text, "--tokenizer", str(folder / "tokenizer"), *COMMON, *options]
        run = folder / name
        seconds_until("evaluate_and_save", *command, "--output_dir", str(run))
        longer = ["--max_steps", "1000", "--resume", "--output_dir", str(run)]
        times = {"fresh": [], "resumed": []}
        for i in range(rounds):
            fresh = seconds_until("training_step", *command, "--output_dir", str(folder / f"{name} {i}"))
            times["fresh"].append(fresh)
            times["resumed"].append(seconds_until("training_step", *command, *longer))
        fresh, resumed = (statistics.median(times[key]) for key in ("fresh", "resumed"))
        rows.append({"run": name, "fresh, s": fresh, "resumed, s": resumed, "ratio": resumed / fresh})
    return rows


def checkpoints(corpus: str, folder: Path) -> list[dict]:
    """The share of training that writing checkpoints takes at the default interval, at size mini."""
    from foliogpt.scripts.cli import main
    from foliogpt.training.trainer import FolioTrainer

    seconds, real = [], FolioTrainer._save_checkpoint

    def timed(*args):
        start = time.perf_counter()
        real(*args)
        seconds.append(time.perf_counter() - start)

    FolioTrainer._save_checkpoint = timed
    command = ["pretrain", "--corpus", corpus, "--tokenizer", str(folder / "tokenizer"), *COMMON, "--size", "mini"]
    with contextlib.redirect_stdout(io.StringIO()):
        code = main([*command, "--max_steps", str(STEPS), "--output_dir", str(folder / "saved")])
    FolioTrainer._save_checkpoint = real
    if code:
        raise RuntimeError("the run failed")
    training = json.loads((folder / "saved" / "report.json").read_text())["seconds"]["training"]
    newest = folder / "saved" / f"checkpoint-{STEPS}"
    return [
        {
            "checkpoints": len(seconds),
            "MB each": sum(file.stat().st_size for file in newest.iterdir()) / 1e6,
            "s each": statistics.median(seconds),
            "s a step": (training - sum(seconds)) / STEPS,
            f"share of {STEPS} steps": sum(seconds) / training,
        }
    ]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--corpus", default="shakespeare.txt", help="a text file")
    options.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    options.add_argument("--rounds", type=int, default=5)
    chosen = options.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folio("tokenizer", "train", "--corpus", chosen.corpus, "--output_dir", str(folder / "tokenizer"))
        if "start" in chosen.only:
            figures["start"] = starts(chosen.corpus, folder, chosen.rounds)
            show("From the start of the process to the first step", figures["start"], "Medians.")
        if "checkpoints" in chosen.only:
            figures["checkpoints"] = checkpoints(chosen.corpus, folder)
            show("Writing checkpoints at the default interval, size mini", figures["checkpoints"])
    write(chosen.json, figures)


if __name__ == "__main__":
    main()
