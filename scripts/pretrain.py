"""Train a model on a corpus, from scratch or from a checkpoint.

    folio pretrain --output_dir runs/manual --minutes 3
    folio pretrain --corpus shakespeare.txt --tokenizer char --block_size 128 --output_dir runs/shakespeare
    folio pretrain --depth 6 --minutes 30 --output_dir runs/deep
    folio pretrain --init_from runs/manual --corpus shakespeare.txt --output_dir runs/more
    folio pretrain --output_dir runs/manual --resume
    torchrun --nproc_per_node 2 -m foliogpt.scripts.cli pretrain --output_dir runs/manual

Every field of transformers' TrainingArguments is an option, too.
"""

import shlex


def main(argv: list[str]) -> None:
    from ..data.arguments import CorpusArguments
    from ..jobs.processes import broadcast_attempt_id, broadcast_from_main, is_main_process, is_restart
    from ..jobs.resume import after_restart
    from ..jobs.run_folder import RUN_FILE
    from ..training.arguments import ModelArguments, PretrainingArguments
    from ..training.depth import DepthArguments
    from ..training.pretraining import pretrain
    from .arguments import command_line, parse

    groups = [CorpusArguments, ModelArguments, PretrainingArguments, DepthArguments]
    corpus, model, args, dial = parse(argv, groups, "folio pretrain", __doc__, run_file=RUN_FILE)
    broadcast_attempt_id()
    if is_restart(args.device) and (flags := broadcast_from_main(lambda: after_restart(args.output_dir))):
        corpus, model, args, _ = parse([*argv, *flags], groups, "folio pretrain", __doc__, run_file=RUN_FILE)
        args.minutes = None if args.resume else args.minutes  # they have become steps
    if dial.depth and is_main_process():
        batch = args.global_batch_size * model.block_size
        print(f"depth {dial.depth}: width {model.hidden_size}, {batch:,} tokens/step, rate {args.learning_rate:.3g}")
    report = pretrain(corpus, model, args, command=command_line("folio pretrain", argv))
    command = ["folio", "generate", "--model", report["output_dir"], f"--prompt={report['prompt']}"]
    if is_main_process():
        print(f"\n{report['verdict']}\nTry it: {shlex.join(command)}")
