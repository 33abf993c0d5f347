"""The steps of `folio evaluate`, from its arguments to metrics on the terminal and in a file."""

import dataclasses
import os
import time
from typing import Any

import torch
import transformers

from ..checkpoints.loading import task_of
from ..jobs.report import code_version
from .arguments import EvaluationArguments
from .results import check_writable, confusion_table, summarize, table, verdicts, write_json
from .tasks import EvalData, evaluate_checkpoint, load_rows, run_on, same_file

NUM_SAMPLES_SHOWN = 3


def evaluate(args: EvaluationArguments, options: dict[str, Any] | None = None) -> dict:
    """Evaluate a model as `args` say, and return the results, which are also written as JSON if there is an output.

    `options` are fields of transformers' GenerationConfig, for tasks in which the model writes. The `figures` are by
    name, each with its `value` and 95 % `interval`, with those `before` and the `difference`; there are `notes`,
    `details`, and the settings as well. Raises ValueError, OSError, ImportError.
    """
    if args.output:
        check_writable(args.output)
    transformers.set_seed(args.seed)
    began = time.perf_counter()
    data = load_rows(args, task_of(args.model, args.trust_remote_code))
    train = _train_data(args, data)
    after = evaluate_checkpoint(args.model, data, args, options or {}, train)
    before = evaluate_checkpoint(args.baseline, data, args, options or {}, train) if args.baseline else None
    entries = summarize(after, before, args.seed)
    results = {
        "model": args.model,
        "task": data.task,
        "data": args.data,
        "split": data.split,
        "examples": after.examples,
        "before": args.baseline,
        "figures": entries,
        "verdicts": verdicts(after.metrics[0], entries[after.metrics[0].name]),
        "notes": after.notes,
        "details": after.details,
        "seed": args.seed,
        "seconds": round(time.perf_counter() - began, 2),
        "versions": {"foliogpt": code_version(), "transformers": transformers.__version__, "torch": torch.__version__},
    }
    if args.output:
        write_json(args.output, results)
    return results


def _train_data(args: EvaluationArguments, data: EvalData) -> EvalData | None:
    if not args.train_data:
        return None
    if data.task not in ("classify", "samples"):
        raise ValueError(f"--train_data is for classify and samples, and this is {data.task}: leave it out.")
    split = None
    if data.task == "samples":
        held_out = same_file(str(args.data), args.train_data) or run_on(args.model, args.train_data, texts=True)
        split = "train" if held_out else "all"
    elif run_on(args.model, args.train_data) or not os.path.isfile(os.path.expanduser(args.train_data)):
        split = "train"
    other = dataclasses.replace(args, data=args.train_data, task=data.task, split=split, limit=None)
    return load_rows(other, "lm")


def show(results: dict) -> str:
    """Return the results as Markdown for the terminal."""
    split = "" if results["split"] == "all" else f", {results['split']}"
    lines = [f"{results['task']} on {results['data']}{split}: {results['examples']:,} examples\n"]
    lines += [table(results["figures"]), "", *results["verdicts"]]
    if notes := results["notes"]:
        lines.append(f"Note: {'; '.join(notes)}.")
    details = results["details"]
    if matrix := details.get("confusion_matrix"):
        lines += ["", confusion_table(matrix)]
    if copied := details.get("longest_copy"):
        lines.append(f"The longest copy: {' '.join(copied.split())[:200]!r}")
    for row in details.get("samples", [])[:NUM_SAMPLES_SHOWN]:
        lines.append(f"  ... {' '.join(row['prompt'].split())[-60:]} | {' '.join(row['sample'].split())[:200]}")
    for row in details.get("predictions", [])[:NUM_SAMPLES_SHOWN]:
        lines.append(f"  {' '.join(row['prediction'].split())[:120]!r} should be {str(row['reference'])[:120]!r}")
    return "\n".join(lines).rstrip()
