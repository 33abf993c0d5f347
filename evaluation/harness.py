"""EleutherAI's lm-evaluation-harness on a checkpoint: hundreds of public tasks, or one of your own in a YAML file."""

import logging
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..jobs.errors import first_line
from ..jobs.extras import extra


def run_harness(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: list[str],
    include_path: str | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
) -> dict[str, dict]:
    """Run tasks of the harness on a loaded model.

    Args:
        tasks: their names.
        include_path: a folder with task files (YAML) of your own.
        limit: only so many rows of each task.

    Returns:
        For each task and metric ("arc_easy acc") its `value`, and `stderr` where the harness has one.

    Raises:
        ImportError: if lm_eval is missing; names the extra that has it.
        ValueError: for a task that there is not, or whose data cannot be had.
    """
    with extra("harness", "The harness"):
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    if include_path is not None and not Path(include_path).expanduser().is_dir():
        raise FileNotFoundError(f"--include_path {include_path} is no folder: give the one with the task files.")
    manager = TaskManager(include_path=include_path and str(Path(include_path).expanduser()))
    unknown = [task for task in tasks if not manager.match_tasks([task])]
    if unknown:
        raise ValueError(
            f"The harness has no task {unknown[0]!r}: `lm_eval ls tasks` lists its own; --include_path adds a folder."
        )
    try:
        wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        seeds = {f"{kind}_seed": seed for kind in ("random", "numpy_random", "torch_random", "fewshot_random")}
        results: dict = lm_eval.simple_evaluate(
            model=wrapped, tasks=tasks, task_manager=manager, num_fewshot=num_fewshot, limit=limit, log_samples=False,
            bootstrap_iters=1000, **seeds,
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
