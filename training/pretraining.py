"""From a corpus to a checkpoint: the steps behind `folio pretrain` and `folio quickstart`."""

import math
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import datasets
import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel, TrainerCallback

from ..checkpoints.loading import context_length
from ..checkpoints.self_check import check_cache
from ..data.arguments import CorpusArguments
from ..data.packed_corpus import PackedCorpora, pack_corpora
from ..evaluation.bits_per_byte import evaluate
from ..evaluation.verdict import verdict
from ..jobs.cards import pretrained_card
from ..jobs.processes import from_first, is_first
from ..jobs.report import Stages, write_result
from ..jobs.resume import check_same_text, checkpoint_to_resume, read_state
from ..jobs.run_folder import run_metadata
from ..jobs.saving import staged
from ..modeling import FolioForCausalLM
from ..tokenization import encode_texts
from .arguments import ModelArguments, PretrainingArguments, run_settings
from .calibration import calibrate
from .config_fields import chosen_fields
from .device import choose_for_device
from .flops import flops_per_token, peak_flops
from .new_model import LOSS_CHUNK, arguments_of_own, configured_model, starting_config
from .out_of_memory import memory_watched, pretraining_step
from .run import KeepSettings, facts, folder_of, resumable, train
from .sharding import whole_model
from .trainer import FolioTrainer

EVALUATION_SHARE = 0.1  # of the time of a run
PROMPT_WITHIN = 10_000  # characters of a held-out text
STREAM_HINT = " Text that is larger than the memory can be read with --streaming."  # if memory runs out before training


def pretrain(
    corpus: CorpusArguments | str | list[str],
    model: ModelArguments | PreTrainedConfig | PreTrainedModel | None = None,
    args: PretrainingArguments | None = None,
    *,
    tokenizer: str | None = None,
    block_size: int | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    trainer_class: type[FolioTrainer] | None = None,
    optimizer: Callable[[PreTrainedModel], torch.optim.Optimizer] | None = None,
    command: str = "",
    stages: Stages | None = None,
) -> dict:
    """Train a model, from scratch or from a checkpoint on, and write its checkpoint to `args.output_dir`.

    Args:
        corpus: the text, as `--corpus` names it, or all settings of it.
        model: a preset, a size and fields, or a checkpoint to go on from; or the config of any causal language model in
            transformers, which gets fresh weights; or a model, which is trained as it is. Default: `folio` at `nano`.
        args: transformers' `TrainingArguments` with our defaults; changed where it left things to be measured.
        tokenizer, block_size: with a config or a model: the tokenizer (a directory, a Hub name or "char"; None trains
            one) and the tokens in a training example (None: the model's context, 1,024 at most).
        callbacks: added to the trainer.
        trainer_class: a subclass of `FolioTrainer`.
        optimizer: makes the optimizer of the model; then `args.optim` and its learning rates are not used.
        command: what the model card says the run was made by.
        stages: collects times and prints a line for each stage.

    Returns the report, as written to report.json. Raises ValueError or OSError for settings and input that do not work,
    and Interrupted if a signal stopped the training; the message says where it was saved and how to go on.
    """
    stages, args = stages or Stages(), args or PretrainingArguments()
    corpus = corpus if isinstance(corpus, CorpusArguments) else CorpusArguments(corpus)
    own = None if model is None or isinstance(model, ModelArguments) else model
    if own is not None:
        model = arguments_of_own(own, tokenizer, block_size)
    elif tokenizer is not None or block_size is not None:
        raise ValueError("tokenizer and block_size belong to a config or a model: give them in ModelArguments instead.")
    model = model or ModelArguments()
    check_end(corpus, args)
    stages.silent = stages.silent or not is_first()
    with folder_of(args) as output_dir, memory_watched(args, STREAM_HINT) as check_fits:
        checkpoint = None
        begun = next((f.parent for f in output_dir.glob("checkpoint-*/config.json")), None) if args.resume else None
        config = starting_config(model, begun) if own is None else getattr(own, "config", own)
        args.settle_learning_rates(config.get_text_config().hidden_size, is_trained=model.init_from is not None)
        if args.resume:
            settings = run_settings(corpus, model, args)
            fixed = (*args.FIXED, *args.FIXED_FOR_STREAMS) if corpus.streaming else args.FIXED
            checkpoint = from_first(lambda: checkpoint_to_resume(output_dir, settings, args, fixed))
        transformers.set_seed(args.seed)
        source = model.tokenizer or model.init_from
        data = pack_corpora(corpus, source, model.vocab_size, model.block_size, stages, checkpoint, args.seed)
        fingerprint = data.fingerprint or run_settings(corpus, model, args)["corpus"]
        if args.resume:
            check_same_text(output_dir, checkpoint, fingerprint)
        check_batch(data, args)
        network = configured_model(own or model, data.tokenizer, args, checkpoint)
        choose_for_device(network, data, model, args, stages)
        check_fits(pretraining_step(network, model, args))
        with stages("calibration") as say:
            batch = data.collator(list(islice(data.train_blocks, args.per_device_train_batch_size)))
            done = read_state(checkpoint).global_step if checkpoint else 0
            timed = calibrate(network, batch, args, done, total_steps(data, args))
            say(", ".join(f"{name} {seconds:.3f} s a step" for name, seconds in timed.items()) or "not needed")
        beside = run_metadata(fingerprint, args.global_batch_size)
        trainer = (trainer_class or FolioTrainer)(
            model=network,
            args=args,
            train_dataset=data.train_blocks,
            eval_dataset=judged_on_the_way(data, args),
            data_collator=data.collator,
            processing_class=data.tokenizer,
            callbacks=[KeepSettings(output_dir, {**run_settings(corpus, model, args), **beside}), *callbacks],
            optimizers=(optimizer(network) if optimizer else None, None),
        )
        with stages("training") as say:
            speed = train(trainer, checkpoint, prompt_ids(data, args), "a smaller --size", flops(network, data, args))
            say(f"{trainer.state.global_step:,} steps, {trainer.state.num_input_tokens_seen:,} tokens")
        known = {
            "name": output_dir.resolve().name,
            "command": command,
            "output_dir": str(output_dir),
            "corpus": " + ".join(corpus.corpus),
            "preset": model.preset or config.model_type,
            "size": model.size or "custom",
            "fields": chosen_fields(model, config),
            "base_model": model.init_from,
            "step_seconds": timed,
            "tokens_per_second": speed,
        }
        with resumable(trainer):
            return finish(trainer, data, output_dir, known, stages)


def check_batch(data: PackedCorpora, args: PretrainingArguments) -> None:
    """Refuse to drop the last batch where it is the only one."""
    blocks = None if data.train_documents is None else len(data.train_blocks)
    if args.dataloader_drop_last and blocks is not None and blocks < args.train_batch_size:
        raise ValueError(f"{blocks} blocks are no whole batch: use --per_device_train_batch_size {blocks} or less.")


def finish(trainer: FolioTrainer, data: PackedCorpora, output_dir: Path, known: dict, stages: Stages) -> dict:
    """Judge the trained model, write its checkpoint, and return the report: what is `known`, and what was measured."""
    trainer.check_weights()
    network = whole_model(trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False))
    if isinstance(network, FolioForCausalLM) and trainer.args.device.type == "cpu":
        network.loss_chunk_size = LOSS_CHUNK
    with stages("evaluation") as say:
        quality = evaluate(network, data, trainer.args.per_device_eval_batch_size)
        compared = {"this model": quality["val_bits_per_byte"], **quality["baseline_bits_per_byte"]}
        say(", ".join(f"{name} {bits:.3f}" for name, bits in compared.items()) + " bits a byte of held-out text")
        if changed := quality["val_documents_changed"]:
            say(f"too good, as the tokenizer does not give {changed:,} of the documents back as they were")
    report = {
        **known,
        "train_documents": data.train_documents,
        "train_bytes": data.train_bytes,
        "parameters": network.num_parameters(),
        "vocab_size": len(data.tokenizer),
        **quality,
        **facts(trainer, network, stages),
        "prompt": trainer.args.sample_prompt or first_words(next(data.validation_texts())),
    }
    report["verdict"] = verdict(report, trainer.state.log_history)
    with stages("checkpoint") as say:
        if is_first():
            save_checkpoint(output_dir, network, data.tokenizer, trainer.state, report)
        say(str(output_dir))
    if is_first():
        check_cache(network, f"The weights are not at fault: {output_dir} is whole.")
    return report


def flops(network: PreTrainedModel, data: PackedCorpora, args: PretrainingArguments) -> tuple[float, float | None]:
    """Of a token, and a second at most in all processes."""
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
    peak = peak_flops(args.device, dtype)
    return flops_per_token(network, data.tokenizer.model_max_length), peak and peak * args.world_size


def judged_on_the_way(data: PackedCorpora, args: PretrainingArguments) -> datasets.Dataset:
    """The held-out blocks, or every n-th of them, so that evaluations take a tenth of the training's time at most."""
    blocks, steps = datasets.concatenate_datasets(data.validation_blocks), total_steps(data, args)
    if args.load_best_model_at_end or args.eval_strategy != "steps" or not args.eval_steps:
        return blocks
    times = max(1, 1 / args.eval_steps if args.eval_steps < 1 else steps / args.eval_steps)
    # Without the way back, a block takes a third of the time.
    most = max(3 * EVALUATION_SHARE * steps * args.global_batch_size / times, args.per_device_eval_batch_size)
    return blocks.select(range(0, len(blocks), math.ceil(len(blocks) / most)))


def prompt_ids(data: PackedCorpora, args: PretrainingArguments) -> list[int]:
    """The prompt of samples, or the words of a held-out document; a tokenizer may have nothing for these."""
    (prompt,) = encode_texts(data.tokenizer, [args.sample_prompt or first_words(next(data.validation_texts()))])
    return prompt or [data.tokenizer.eos_token_id]


def first_words(text: str) -> str:
    """A prompt for the model card, as it fits between quotes: the first words of a paragraph that begins as texts do.

    A held-out text may begin in the middle of a sentence.
    """
    lines = [paragraph.strip().partition("\n")[0] for paragraph in text[:PROMPT_WITHIN].split("\n\n")]
    lines = [line.replace("\\", "").replace('"', "") for line in lines]
    line = next((line for line in lines if line[:1].isalpha() and not line[0].islower()), lines[0])
    return " ".join(line[:40].split(" ")[:4]).strip() or "The"


def total_steps(data: PackedCorpora, args: PretrainingArguments) -> int:
    """The number of optimizer steps of the run, by which time `minutes` have become `max_steps`."""
    if args.max_steps > 0 or data.train_documents is None:
        return args.max_steps
    return math.ceil(args.num_train_epochs * math.ceil(len(data.train_blocks) / args.global_batch_size))


def check_end(corpus: CorpusArguments, args: PretrainingArguments) -> None:
    """Refuse to train on a stream for ever."""
    if corpus.streaming and args.max_steps < 0 and args.minutes is None:
        raise ValueError("A stream has no end: say when to stop with --minutes or --max_steps.")


def save_checkpoint(output_dir: Path, network: FolioForCausalLM, tokenizer, state, report: dict) -> None:
    """Write everything that travels: weights, config, code, tokenizer, trainer state, curve and model card."""
    network.config.use_cache = True  # Trainer turned it off
    tokenizer.model_max_length = context_length(network) or tokenizer.model_max_length  # so far that of a block
    with staged(output_dir) as folder:
        network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        quality = f"{report['val_bits_per_byte']:.3f} bits a byte on held-out text"
        write_result(folder, state, report, pretrained_card(report), quality)
