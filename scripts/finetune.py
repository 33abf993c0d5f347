"""Adapt a checkpoint, ours or any causal language model, to examples.

    folio finetune sft --model runs/quickstart --data chats.jsonl --output_dir runs/chat
    folio finetune sft --output_dir runs/chat --resume
    folio finetune dpo --model runs/chat-merged --data preferences.json --output_dir runs/dpo
    folio finetune lm --model runs/quickstart --data notes.txt --method full --output_dir runs/notes
    folio finetune classify --model runs/quickstart --data labels.csv --output_dir runs/classes
    folio finetune tag --model runs/quickstart --data names.jsonl --output_dir runs/names
    folio finetune qa --model runs/quickstart --data squad.json --output_dir runs/reader
    torchrun --nproc_per_node 2 -m foliogpt.scripts.cli finetune sft --model runs/quickstart --data chats.jsonl

The task is sft (chats, instructions), dpo (preferences), lm (texts), classify (labels of texts), tag (labels of words)
or qa (answers in texts). Every field of transformers' TrainingArguments is an option, too.
"""

import shlex
from functools import partial

NEXT_STEPS = {  # of each task
    "sft": "chat --model {}",
    "dpo": "chat --model {}",
    "lm": "generate --model {} --prompt Hello",
    "classify": 'classify --model {} --text "A text"',
    "tag": "evaluate --model {} --data EXAMPLES",
    "qa": 'answer --model {} --question "Who?" --context "A text"',
}


def run(task: str, argv: list[str]) -> None:
    from ..data.arguments import DataArguments
    from ..jobs.processes import broadcast_attempt_id, broadcast_from_main, is_main_process, is_restart
    from ..jobs.resume import after_restart
    from ..jobs.run_folder import RUN_FILE
    from ..training.finetuning.arguments import MethodArguments
    from ..training.finetuning.finetuning import finetune
    from ..training.finetuning.trainers import arguments_of
    from .arguments import command_line, parse

    prog = f"folio finetune {task}"
    groups = [DataArguments, MethodArguments, arguments_of(task)]
    flags = ["--task", task, *argv]
    data, method, args = parse(flags, groups, prog, __doc__, run_file=RUN_FILE)
    broadcast_attempt_id()
    if is_restart(args.device) and (again := broadcast_from_main(lambda: after_restart(args.output_dir))):
        data, method, args = parse([*flags, *again], groups, prog, __doc__, run_file=RUN_FILE)
    report = finetune(data, method, args, command=command_line(prog, argv))
    if is_main_process():
        print(f"\nTry it: folio {NEXT_STEPS[task].format(shlex.quote(report['output_dir']))}")


JOBS = {task: partial(run, task) for task in NEXT_STEPS}
