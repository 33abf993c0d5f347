"""Runs that are killed and resumed, against one that is left alone.

    python tests/training/killed_runs.py FOLDER --kills 30 --seed 1 [--streaming]

The packages are imported once; each run is a fork of this process. Prints what happened as JSON.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import sys
import time
from itertools import takewhile
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}

TIMES = ("seconds", "runtime", "per_second", "flops")  # what may differ: log entries with these words in their names
SETTINGS = {
    "hidden_size": 32, "num_hidden_layers": 2, "block_size": 32, "tokenizer": "char",
    "max_steps": 30, "per_device_train_batch_size": 4, "bf16": "false",
    # No interval is a multiple of another, and six steps are a pass.
    "logging_steps": 5, "eval_steps": 7, "save_steps": 3, "num_train_epochs": 9,
}  # fmt: skip


def write_corpora(folder: Path) -> None:
    """A text for the runs that read it at once, and rows for those that stream."""
    line = "One two three, the {} is free; {} times {} is {}.\n"
    numbers = [line.format(("cat", "dog", "hen")[i % 3], i, i % 7, i * (i % 7)) for i in range(18)]
    (folder / "text.txt").write_text("".join(numbers))
    rows = ("".join(numbers[i : i + 2]) + str(i) for i in range(18) for _ in range(9))
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))


def arguments(folder: Path, name: str, streaming: bool) -> list[str]:
    """The command line of a run; with `--resume` it is the one that goes on."""
    corpus = ["--corpus", str(folder / "rows.jsonl"), "--streaming", "--shuffle_buffer_size", "20"]
    corpus = corpus if streaming else ["--corpus", str(folder / "text.txt")]
    settings = [f"--{key}={value}" for key, value in SETTINGS.items()]
    return ["pretrain", *corpus, *settings, "--output_dir", str(folder / name)]


def fork(argv: list[str], log: Path, first=lambda: None) -> int:
    """Start a run, and return the id of its process. `first` is called there before it begins."""
    from foliogpt.scripts.cli import main

    process = os.fork()
    if process:
        return process
    with log.open("a") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    code = 70
    with contextlib.suppress(BaseException):
        first()
        code = main(argv)
        sys.stdout.flush()
    os._exit(code)  # without what the process we are a fork of would do at its end


def ends(process: int) -> int:
    """The exit code of a process, negative if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def ends_within(process: int, seconds: float) -> int | None:
    """The exit code of a process, or None if it still runs after that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def outcome(run: Path) -> dict:
    """All of a finished run that must not depend on its interruptions."""
    state = json.loads((run / "trainer_state.json").read_text())
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    report = json.loads((run / "report.json").read_text())
    return {
        "weights": hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest(),
        "log_history": [without_times(entry) for entry in state["log_history"]],
        "metrics": [without_times(entry) for entry in metrics],
        "report": [report[key] for key in ("val_loss", "steps", "tokens", "prompt")],
    }


def without_times(entry: dict) -> dict:
    return {key: value for key, value in entry.items() if not any(word in key for word in TIMES)}


def unfinished(run: Path) -> int:
    """How many checkpoints were being written when the run was killed."""
    return sum(not (path / "SHA256SUMS").exists() for path in run.glob("checkpoint-*"))


class Saves:
    """Sees each file that a process opens, renames or removes once it has begun to save a checkpoint."""

    def __init__(self, kill_at: int | None = None):
        self.kill_at = kill_at
        self.seen: list[str] | None = None
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple) -> None:
        if not args or not isinstance(args[0], str | Path) or "checkpoint-" not in str(args[0]):
            return
        if event == "os.mkdir" and self.seen is None:
            self.seen = []
        if self.seen is not None:
            self.seen.append(f"{event} checkpoint-{str(args[0]).partition('checkpoint-')[2]}")
            if len(self.seen) == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)


class Experiment:
    """A run that is left alone, and others that are killed, in one folder."""

    def __init__(self, folder: Path, streaming: bool, chance: random.Random):
        self.folder, self.streaming, self.chance = folder, streaming, chance
        self.log = folder / "log.txt"
        self.kills: list[str] = []
        write_corpora(folder)
        start = time.monotonic()
        self.complete("whole", self.fork("whole", self.watched))
        self.seconds = time.monotonic() - start
        self.whole = outcome(folder / "whole")
        saves = json.loads((folder / "saves.json").read_text())
        self.first_save = list(takewhile(lambda seen: "checkpoint-6" not in seen, saves))

    def watched(self) -> None:
        saves = Saves()
        atexit = os._exit  # a fork of ours ends without exit handlers

        def write_and_exit(code: int) -> None:
            (self.folder / "saves.json").write_text(json.dumps(saves.seen))
            atexit(code)

        os._exit = write_and_exit

    def fork(self, name: str, first=lambda: None) -> int:
        resume = ["--resume"] if (self.folder / name / "run.yaml").exists() else []
        return fork([*arguments(self.folder, name, self.streaming), *resume], self.log, first)

    def complete(self, name: str, process: int) -> None:
        code = ends(process)
        if code and not self.was_done(name, code):
            raise RuntimeError(f"{name} ended with {code}:\n{self.log.read_text()}")

    def was_done(self, name: str, code: int) -> bool:
        """Whether a run that goes on says that nothing is left: it was killed between its last file and its end."""
        last = self.log.read_text().splitlines()[-1]
        return code == 2 and f"{name} is complete at step {SETTINGS['max_steps']}:" in last

    def killed(self, name: str, code: int) -> None:
        if code != -signal.SIGKILL:
            raise RuntimeError(f"{name} ended with {code}, not killed:\n{self.log.read_text()}")
        run = self.folder / name
        saved = max((int(path.name[11:]) for path in run.glob("checkpoint-*")), default=0)
        saving = ", while saving" if unfinished(run) else ""
        self.kills.append(f"{name}: {'' if (run / 'run.yaml').exists() else 'before the start, '}at {saved}{saving}")

    def at_random(self, name: str, kills: int) -> None:
        """Kill a run at up to so many random moments, until it outlives one."""
        for _ in range(kills):
            process = self.fork(name)
            code = ends_within(process, self.chance.uniform(0.1, 0.8) * self.seconds)
            if code is None:
                os.kill(process, signal.SIGKILL)
                code = ends(process)
            if code == 0 or self.was_done(name, code):  # it was faster than the signal, this one or the last
                return
            self.killed(name, code)
        self.complete(name, self.fork(name))

    def while_saving(self, name: str, points: list[int]) -> None:
        """Kill a run at each of these points of saving a checkpoint, one after the other."""
        for point in points:
            self.killed(name, ends(self.fork(name, lambda point=point: Saves(point))))
        self.complete(name, self.fork(name))

    def check(self, name: str) -> None:
        """The run has come to what it would have come to without the kills."""
        for key, value in outcome(self.folder / name).items():
            if value != self.whole[key]:
                raise RuntimeError(f"{name}: other {key}:\n{value}\nfor\n{self.whole[key]}\nafter {self.kills}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, required=True, help="at random moments, at least")
    parser.add_argument("--points", type=int, default=0, help="of saving a checkpoint at which a run is killed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--streaming", action="store_true")
    chosen = parser.parse_args()

    import matplotlib.pyplot  # noqa: F401
    import torch

    import foliogpt.training.pretraining  # noqa: F401

    torch.set_num_threads(1)  # a fork has no threads but one
    chosen.folder.mkdir(parents=True, exist_ok=True)
    experiment = Experiment(chosen.folder.resolve(), chosen.streaming, random.Random(chosen.seed))
    number = 0
    while len(experiment.kills) < chosen.kills:
        experiment.at_random(f"random-{number}", chosen.kills - len(experiment.kills))
        experiment.check(f"random-{number}")
        number += 1
    if chosen.points:
        last = len(experiment.first_save)
        points = [1 + round(i * (last - 1) / max(chosen.points - 1, 1)) for i in range(chosen.points)]
        experiment.while_saving("saving", points)
        experiment.check("saving")
    print(
        json.dumps(
            {"kills": experiment.kills, "seconds": experiment.seconds, "first_save": experiment.first_save}, indent=1
        )
    )


if __name__ == "__main__":
    main()
