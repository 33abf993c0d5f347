"""The steps behind `folio evaluate`: what was asked for, the figures, and where they are written."""

import dataclasses
import os
import time
from typing import Any

import torch
import transformers

from ..checkpoints.loading import task_of
from ..jobs.report import code_version
from .arguments import EvaluationArguments
from .results import check_writable, confusion_table, summarise, table, verdict, write_json
from .tasks import Rows, evaluate_checkpoint, load_rows, run_on, same_file

SHOWN = 3  # samples


def evaluate(args: EvaluationArguments, options: dict[str, Any] | None = None) -> dict:
    """Evaluate a model as `args` say, write what they ask for, and return the results.

    Args:
        options: fields of transformers' GenerationConfig, where the model writes.

    Returns what is written as JSON: `figures` by name, each with its `value` and 95 % `interval`, with those `before`
    and their `difference`; `notes`, `details`, and what it was done with. Raises ValueError, OSError, ImportError.
    """
    if args.output:
        check_writable(args.output)
    transformers.set_seed(args.seed)
    began = time.perf_counter()
    found = _task(args, options or {})
    results = {
        "model": args.model,
        **found,
        "seed": args.seed,
        "seconds": round(time.perf_counter() - began, 2),
        "versions": {"foliogpt": code_version(), "transformers": transformers.__version__, "torch": torch.__version__},
    }
    if args.output:
        write_json(args.output, results)
    return results


def _task(args: EvaluationArguments, options: dict[str, Any]) -> dict:
    rows = load_rows(args, task_of(args.model, args.trust_remote_code))
    train = _train_rows(args, rows)
    after = evaluate_checkpoint(args.model, rows, args, options, train)
    copied_from = train if rows.task == "samples" else None
    before = evaluate_checkpoint(args.before, rows, args, options, copied_from) if args.before else None
    figures = summarise(after, before, args.seed)
    main, others = after.metrics[0], [*(["before"] if before else []), *after.baselines]
    return {
        "task": rows.task,
        "data": args.data,
        "split": rows.split,
        "examples": after.examples,
        "before": args.before,
        "figures": figures,
        "verdicts": [verdict(main, figures[main.name], other) for other in others],
        "notes": after.notes,
        "details": after.details,
    }


def _train_rows(args: EvaluationArguments, rows: Rows) -> Rows | None:
    if not args.train_data:
        return None
    if rows.task not in ("classify", "samples"):
        raise ValueError(f"--train_data is for classify and samples, and this is {rows.task}: leave it out.")
    split = None
    if rows.task == "samples":
        held_out = same_file(str(args.data), args.train_data) or run_on(args.model, args.train_data, texts=True)
        split = "train" if held_out else "all"
    elif run_on(args.model, args.train_data) or not os.path.isfile(os.path.expanduser(args.train_data)):
        split = "train"
    other = dataclasses.replace(args, data=args.train_data, task=rows.task, split=split, limit=None)
    return load_rows(other, rows.task if rows.task == "classify" else "lm")


def show(results: dict) -> str:
    """The results for people, in Markdown."""
    split = "" if results["split"] == "all" else f", {results['split']}"
    lines = [f"{results['task']} on {results['data']}{split}: {results['examples']:,} examples\n"]
    lines += [table(results["figures"]), "", *filter(None, results.get("verdicts", []))]
    if notes := results.get("notes"):
        lines.append(f"Note: {'; '.join(notes)}.")
    details = results.get("details", {})
    if matrix := details.get("confusion_matrix"):
        lines += ["", confusion_table(matrix)]
    if copied := details.get("longest_copy"):
        lines.append(f"The longest copy: {' '.join(copied.split())[:200]!r}")
    for row in details.get("samples", [])[:SHOWN]:
        lines.append(f"  ... {' '.join(row['prompt'].split())[-60:]} | {' '.join(row['sample'].split())[:200]}")
    for row in details.get("predictions", [])[:SHOWN]:
        lines.append(f"  {' '.join(row['prediction'].split())[:120]!r} should be {str(row['reference'])[:120]!r}")
    return "\n".join(lines).rstrip()
