"""EleutherAI's lm-evaluation-harness on a checkpoint: hundreds of public tasks, or one of your own in a YAML file."""

import logging
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..jobs.errors import first_line
from ..jobs.extras import extra
from .arguments import EvaluationArguments


def run_harness(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, args: EvaluationArguments) -> dict:
    """Run the tasks that `args` name on a loaded model; raises ImportError, or ValueError for tasks that cannot run.

    Returns each figure, such as "arc_easy acc", as its `value`, and `stderr` where the harness has one.
    """
    with extra("harness", "The harness"):
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    tasks, folder = args.harness or [], args.include_path and Path(args.include_path).expanduser()
    if folder and not folder.is_dir():
        raise FileNotFoundError(f"--include_path {args.include_path} is no folder: give the one with the task files.")
    manager = TaskManager(include_path=str(folder) if folder else None)
    unknown = [task for task in tasks if not manager.match_tasks([task])]
    if unknown:
        raise ValueError(
            f"The harness has no task {unknown[0]!r}: `lm_eval ls tasks` lists its own; --include_path adds a folder."
        )
    try:
        wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=args.batch_size)
        seeds = {f"{kind}_seed": args.seed for kind in ("random", "numpy_random", "torch_random", "fewshot_random")}
        results: dict = lm_eval.simple_evaluate(
            model=wrapped, tasks=tasks, task_manager=manager, num_fewshot=args.num_fewshot, limit=args.limit,
            log_samples=False, bootstrap_iters=1000, **seeds,
        )  # fmt: skip
    except Exception as error:  # what tasks of others can raise has no end
        raise ValueError(
            f"The harness cannot run {', '.join(tasks)} ({type(error).__name__}: {first_line(error)})"
        ) from error
    return _figures(results["results"])


def _figures(results: dict[str, dict]) -> dict[str, dict]:
    figures = {}
    for task, values in results.items():
        for key, value in values.items():
            metric, _, name = key.partition(",")
            if metric.endswith("_stderr") or not isinstance(value, int | float) or metric == "alias":
                continue
            error = values.get(f"{metric}_stderr,{name}")
            error = error if isinstance(error, int | float) else None
            figures[f"{task} {metric}"] = {"value": float(value), "stderr": error}
    return figures
