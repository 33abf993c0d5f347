"""What `folio estimate` says against what then happens: memory at the peak and time to finish, by size and settings.

    python -m benchmarks.estimate

Each run is a process of its own. Run it with nothing else going on.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .tables import parser, show, write

RUNS = {
    "nano": ["--max_steps", "60"],
    "nano, checkpointing": ["--max_steps", "40", "--activation_checkpointing", "true"],
    "micro, accumulation 2": ["--size", "micro", "--max_steps", "10", "--gradient_accumulation_steps", "2"],
    "mini": ["--size", "mini", "--max_steps", "10", "--per_device_train_batch_size", "4"],
}
COMMON = ["--bf16", "false", "--eval_strategy", "no"]
ESTIMATE = """
import json, sys
from foliogpt.scripts.arguments import parse
from foliogpt.data.arguments import CorpusArguments
from foliogpt.training.arguments import ModelArguments, PretrainingArguments
from foliogpt.training.estimate import estimate
groups = [CorpusArguments, ModelArguments, PretrainingArguments]
print(json.dumps(estimate(*parse(sys.argv[1:], groups, "folio estimate", ""))))
"""


def compare(name: str, options: list[str]) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        said = subprocess.run([sys.executable, "-c", ESTIMATE, *options], check=True, capture_output=True, text=True)
        predicted = json.loads(said.stdout.splitlines()[-1])
        command = [sys.executable, "-m", "foliogpt.scripts.cli", "pretrain", "--output_dir", f"{folder}/run", *options]
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        wall = time.perf_counter() - start
        report = json.loads(Path(folder, "run", "report.json").read_text())
    seconds = sum(predicted["seconds"].values())
    actual = report["seconds"]["training"] + report["seconds"]["evaluation"]
    return {
        "run": name,
        "memory said GB": predicted["memory_peak"] / 1e9,
        "memory GB": report["peak_memory_bytes"] / 1e9,
        "ratio": predicted["memory_peak"] / report["peak_memory_bytes"],
        "time said s": seconds,
        "time s": actual,
        "ratio of times": seconds / actual,
        "whole process s": wall,
    }


def main() -> None:
    chosen = parser(__doc__).parse_args()
    rows = [compare(name, [*options, *COMMON]) for name, options in RUNS.items()]
    show("folio estimate against what happens", rows, "Time: training and the last evaluation.")
    write(chosen.json, {"estimate": rows})


if __name__ == "__main__":
    main()
