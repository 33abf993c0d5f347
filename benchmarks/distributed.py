"""Two DDP processes with one thread each against one process with two, at the same global batch.

    python -m benchmarks.distributed --corpus shakespeare.txt
    python -m benchmarks.distributed --corpus shakespeare.txt --sizes nano --rounds 5

Run it with nothing else going on, on a machine with two cores.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from .tables import parser, show, write

BATCH = 16
STEPS = {"nano": 20, "micro": 8, "mini": 3}
TEXT = 100_000  # characters: the speed of training does not depend on it


def tokens_per_second(processes: int, size: str, text: Path, folder: Path) -> float:
    """Of a run of `folio pretrain` in so many processes, two threads in all."""
    starter = [sys.executable]
    if processes > 1:
        starter += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    batch = ["--per_device_train_batch_size", str(BATCH // processes), "--max_steps", str(STEPS[size])]
    quick = ["--tokenizer", "char", "--eval_strategy", "no", "--save_strategy", "no", "--bf16", "false", "--overwrite"]
    where = ["--corpus", str(text), "--output_dir", str(folder / "run")]
    command = [*starter, "-m", "foliogpt.scripts.cli", "pretrain", "--size", size, *batch, *quick, *where]
    environment = {**os.environ, "OMP_NUM_THREADS": str(2 // processes)}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return json.loads((folder / "run" / "report.json").read_text())["tokens_per_second"]


def compare(size: str, corpus: Path, rounds: int) -> dict:
    """Both in turn; medians."""
    speeds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.txt")
        text.write_text(corpus.read_text(encoding="utf-8")[:TEXT])
        for _ in range(rounds):
            for processes, measured in speeds.items():
                measured.append(tokens_per_second(processes, size, text, Path(folder)))
    one, two = (statistics.median(measured) for measured in speeds.values())
    ratios = " ".join(f"{b / a:.2f}" for a, b in zip(*speeds.values(), strict=True))
    return {
        "size": size,
        "one process": f"{one:,.0f}",
        "two processes": f"{two:,.0f}",
        "ratio": two / one,
        "by round": ratios,
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--corpus", type=Path, required=True)
    options.add_argument("--sizes", nargs="+", choices=list(STEPS), default=list(STEPS))
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    rows = [compare(size, chosen.corpus, chosen.rounds) for size in chosen.sizes]
    show("Tokens a second, training", rows, f"Batches of {BATCH} x 256 tokens, float32, characters as tokens.")
    write(chosen.json, {"distributed": rows})


if __name__ == "__main__":
    main()
