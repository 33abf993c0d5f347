"""Runs of one command with varied settings, one after another, each in its own process."""

import itertools
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..evaluation.comparison import Run, find_runs, read_run
from ..jobs.extras import extra
from ..jobs.options import option
from ..jobs.report import REPORT_FILE
from ..jobs.run_folder import RUN_FILE
from ..jobs.saving import checkpoints, write_atomically

COMMANDS = ("pretrain", *(f"finetune {task}" for task in ("sft", "dpo", "lm", "classify", "tag", "qa")))
PLAN_FILE = "sweep.yaml"
IMMUTABLE_ON_RESUME = ("command", "settings", "vary", "search", "runs", "draw_seed")
ERROR_CHARACTERS = 500
VARY = 'setting: a list of values to try, or {"low": , "high": , "log": true} to draw from; as JSON'


@dataclass
class Sweep:
    """The runs of a sweep."""

    command: str = option("pretrain", "command of each run; fine-tuning with its task", choices=list(COMMANDS))
    settings: dict | str | None = option(None, "settings of all runs, as in --config of the command; as JSON")  # noqa: RUF009
    vary: dict | str | None = option(None, VARY)  # noqa: RUF009
    search: str = option(
        "random", "random draws from low and high, with all combinations of lists; optuna chooses by earlier results",
        choices=["random", "optuna"],
    )  # fmt: skip
    runs: int = option(8, "number of points to draw; random tries each with all combinations of lists")
    minutes: float | None = option(None, "minutes for all runs together: no run begins later")
    draw_seed: int = option(0, "random seed of the search")
    output_dir: str = option("runs/sweep", "folder of the runs")

    def __post_init__(self):
        try:
            self.settings, self.vary = (
                json.loads(each) if isinstance(each, str) else each or {} for each in (self.settings, self.vary)
            )
        except ValueError as error:
            raise ValueError(f"settings or vary is not JSON: {error}.") from None
        if not isinstance(self.vary, dict) or not self.vary or not isinstance(self.settings, dict):
            raise ValueError("vary and settings are mappings: give under vary at least one setting and its values.")
        for name, values in self.vary.items():
            if isinstance(values, list) and values:
                continue
            ends = [values.get("low"), values.get("high")] if isinstance(values, dict) else []
            is_span = len(ends) == 2 and all(type(end) in (int, float) and math.isfinite(end) for end in ends)
            if not is_span or values.keys() - {"low", "high", "log"} or not ends[0] < ends[1]:
                raise ValueError(f"vary: {name} is {values!r}: give a list of values, or low and high.")
            if values.get("log") and ends[0] <= 0:
                raise ValueError(f"vary: {name} is drawn by its logarithm: give a low above 0.")
        if both := self.vary.keys() & self.settings.keys() or {"output_dir"} & {*self.vary, *self.settings}:
            raise ValueError(f"{min(both)} is set by the sweep: take it out of settings.")
        if type(self.runs) is not int or self.runs < 1 or not (self.minutes is None or self.minutes > 0):
            raise ValueError("runs is a whole number from 1 on, and minutes a number above 0.")

    def points(self) -> list[dict]:
        """Return the varied settings of each run of a random search, in order."""
        grid = {name: values for name, values in self.vary.items() if isinstance(values, list)}
        spans = {name: span for name, span in self.vary.items() if isinstance(span, dict)}
        generator = random.Random(self.draw_seed)
        drawn = [{name: _draw(span, generator) for name, span in spans.items()} for _ in range(self.runs)]
        combined = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        return [{**point, **one} for point in (drawn if spans else [{}]) for one in combined]


def _is_int(span: dict) -> bool:
    return type(span["low"]) is type(span["high"]) is int


def _draw(span: dict, generator: random.Random) -> float | int:
    low, high, is_int = span["low"], span["high"], _is_int(span)
    if span.get("log"):
        value = math.exp(generator.uniform(math.log(low), math.log(high)))
        return round(value) if is_int else float(f"{value:.4g}")
    return generator.randint(low, high) if is_int else float(f"{generator.uniform(low, high):.4g}")


def run_sweep(sweep: Sweep, say: Callable[[str], None] = print) -> tuple[list[Run], dict[str, str]]:
    """Run what is not finished yet, and return the finished runs and the errors of those that failed, by folder.

    Raises ValueError if `output_dir` holds another sweep, and RuntimeError if not one run is finished.
    """
    folder = Path(sweep.output_dir).expanduser()
    plan = yaml.safe_dump({name: getattr(sweep, name) for name in IMMUTABLE_ON_RESUME})
    kept = folder / PLAN_FILE
    if kept.is_file() and kept.read_text("utf-8") != plan:
        raise ValueError(f"{folder} holds another sweep: give another --output_dir, or repeat it as it was.")
    if sweep.search == "optuna":
        with extra("sweep", "--search optuna"):
            import optuna  # noqa: F401  # pyright: ignore[reportMissingImports]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(kept, plan)
    points = sweep.points() if sweep.search == "random" else optuna_points(sweep, folder)
    count = len(points) if isinstance(points, list) else sweep.runs
    start, failed = time.monotonic(), {}
    for number, point in enumerate(points, 1):
        run = folder / f"{number:03}"
        if not (run / REPORT_FILE).is_file():
            seconds = time.monotonic() - start
            if sweep.minutes and seconds > sweep.minutes * 60:
                say(f"{seconds / 60:.1f} minutes are over: {count - number + 1} runs did not begin.")
                break
            say(f"run {number} of {count}: {', '.join(f'{name} {value}' for name, value in point.items())}")
            if error := _run(sweep, point, run):
                failed[str(run)] = error
                say(f"  failed: {error}")
    finished = [run for run in find_runs(folder) if run.report] if any(folder.glob(f"*/{RUN_FILE}")) else []
    if not finished:
        raise RuntimeError(f"No run of the sweep is finished: {next(iter(failed.values()), 'there was no time')}")
    return finished, failed


def optuna_points(sweep: Sweep, folder: Path) -> Iterable[dict]:
    """Yield the varied settings of each run as Optuna chooses them by the results of those before.

    The runs in the folder are its journal: a resumed sweep replays their settings and results, with the same seeds.
    """
    import optuna  # pyright: ignore[reportMissingImports]

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    for number in range(1, sweep.runs + 1):
        run, settings = folder / f"{number:03}", folder / f"{number:03}.yaml"
        if settings.is_file():
            used = yaml.safe_load(settings.read_text("utf-8"))
            indices = {name: each.index(used[name]) for name, each in sweep.vary.items() if isinstance(each, list)}
            study.enqueue_trial(used | indices)
        study.sampler = optuna.samplers.TPESampler(seed=(sweep.draw_seed + number) % 2**32)
        trial = study.ask()
        yield {name: _suggest(trial, name, values) for name, values in sweep.vary.items()}
        if (run / REPORT_FILE).is_file():
            study.tell(trial, sort_key(read_run(run)))
        else:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)


def _suggest(trial, name: str, values: list | dict):
    if isinstance(values, list):
        return values[trial.suggest_categorical(name, list(range(len(values))))]
    suggest = trial.suggest_int if _is_int(values) else trial.suggest_float
    return suggest(name, values["low"], values["high"], log=bool(values.get("log")))


def sort_key(run: Run) -> float:
    """Return the metric that ranks runs, lower being better: bits per byte, or the loss if there are none."""
    return run.last("val_bits_per_byte") or run.last("val_loss") or math.inf


def _run(sweep: Sweep, point: dict, folder: Path) -> str | None:
    """Begin a run, or resume one that was stopped; return the last line of its error if it fails."""
    settings = folder.with_suffix(".yaml")
    command = [sys.executable, "-m", "foliogpt.scripts.cli", *sweep.command.split(), "--config", str(settings)]
    try:
        folder.mkdir(exist_ok=True)
        write_atomically(settings, yaml.safe_dump(sweep.settings | point))
        how = "--resume" if checkpoints(folder) else "--overwrite"
        done = subprocess.run([*command, "--output_dir", str(folder), how], stderr=subprocess.PIPE,
                              stdout=subprocess.DEVNULL, text=True, errors="replace")  # fmt: skip
    except OSError as error:  # the disk is full
        return f"{folder} cannot be written: {error.strerror or error}"
    if done.returncode > 128 or done.returncode < 0:  # a signal: it was meant for the whole sweep
        raise KeyboardInterrupt(f"The sweep was stopped: repeat the command to continue with {folder}.")
    lines = done.stderr.strip().splitlines()
    return None if done.returncode == 0 else (lines[-1] if lines else "no message")[-ERROR_CHARACTERS:]
