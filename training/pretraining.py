"""From a corpus to a checkpoint: the steps behind `folio pretrain` and `folio quickstart`."""

import contextlib
import math
import os
import platform
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import datasets
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
)

from ..checkpoints.self_check import check_cache
from ..data.arguments import CorpusArguments
from ..data.packed_corpus import PackedCorpora, pack_corpora
from ..evaluation.bits_per_byte import evaluate
from ..jobs.cards import pretrained_card
from ..jobs.processes import command_to_resume, connected, from_first, is_first, largest_of_all, wait_for_all
from ..jobs.report import CARD_FILE, CURVE_FILE, Stages, code_version, loss_curve, peak_memory_bytes, write_report
from ..jobs.resume import check_same_text, checkpoint_to_resume, reached_its_end, read_state
from ..jobs.run_folder import lock_run_folder, run_metadata, start_run
from ..jobs.saving import STAGING, STATE_FILE, checkpoints, staged
from ..jobs.signals import Interrupted, signal_of
from ..modeling import FolioForCausalLM, preset_config
from ..tokenization import encode_texts, vocabulary_size
from .arguments import FIXED, FIXED_FOR_STREAMS, ModelArguments, PretrainingArguments, run_settings
from .calibration import calibrate
from .callbacks import ProgressBar, StepClock, StopOnInterrupt
from .flops import flops_per_token, peak_flops
from .monitoring import METRICS_FILE, MetricsFile, Samples, Speed, Warnings
from .out_of_memory import within_memory
from .sharding import whole_model
from .trainer import FolioTrainer, SafeTraining

LOSS_CHUNK = 512  # tokens whose logits are in memory at once
LONGEST_BLOCK = 1024  # tokens in an example of a model that the caller brings, if nothing else is asked for


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
    """Train a model from scratch and write its checkpoint to `args.output_dir`.

    Args:
        corpus: the text, as `--corpus` names it, or all settings of it.
        model: a preset and size; or the config of any causal language model in transformers, which gets fresh weights;
            or a model, which is trained as it is. Default: the `folio` preset at size `nano`.
        args: transformers' `TrainingArguments` with our defaults; changed where it left things to be measured.
        tokenizer, block_size: with a config or a model: the tokenizer (a directory, a Hub name or "char"; None trains
            one) and the tokens in a training example (None: the model's context, 1,024 at most).
        callbacks: added to the trainer.
        trainer_class: a subclass of `FolioTrainer`.
        optimizer: makes the optimizer of the model; then `args.optim` and its learning rates are not used.
        command: what the model card says the run was made by.
        stages: collects times and prints a line for each stage.

    Returns:
        The report, as written to report.json.

    Raises:
        ValueError, OSError: for settings and input that do not work; the message says what to do.
        Interrupted: if a signal stopped the training; the message says where it was saved and how to go on.
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
    config = preset_config(model.preset, model.size) if own is None else getattr(own, "config", own).get_text_config()
    args.settle_adam_learning_rate(config.hidden_size)
    stages.silent = stages.silent or not is_first()
    with folder_of(args) as output_dir, within_memory(model, args) as check_fits:
        checkpoint = None
        if args.resume:
            settings = run_settings(corpus, model, args)
            fixed = (*FIXED, *FIXED_FOR_STREAMS) if corpus.streaming else FIXED
            checkpoint = from_first(lambda: checkpoint_to_resume(output_dir, settings, args, fixed))
        transformers.set_seed(args.seed)
        data = pack_corpora(corpus, model.tokenizer, model.vocab_size, model.block_size, stages, checkpoint, args.seed)
        fingerprint = data.fingerprint or run_settings(corpus, model, args)["corpus"]
        if args.resume:
            check_same_text(output_dir, checkpoint, fingerprint)
        check_batch(data, args)
        network = configured_model(own or model, data.tokenizer, args)
        check_fits(network)
        with stages("calibration") as say:
            batch = data.collator(list(islice(data.train_blocks, args.per_device_train_batch_size)))
            timed = calibrate(network, batch, args, read_state(checkpoint).global_step if checkpoint else 0)
            say(", ".join(f"{name} {seconds:.3f} s a step" for name, seconds in timed.items()) or "not needed")
        beside = run_metadata(fingerprint, args.global_batch_size)
        trainer = (trainer_class or FolioTrainer)(
            model=network,
            args=args,
            train_dataset=data.train_blocks,
            eval_dataset=datasets.concatenate_datasets(data.validation_blocks),
            data_collator=data.collator,
            processing_class=data.tokenizer,
            callbacks=[KeepSettings(output_dir, {**run_settings(corpus, model, args), **beside}), *callbacks],
            optimizers=(optimizer(network) if optimizer else None, None),
        )
        with stages("training") as say:
            speed = train(trainer, checkpoint, partial(watch, trainer, data))
            say(f"{trainer.state.global_step:,} steps, {trainer.state.num_input_tokens_seen:,} tokens")
        known = {
            "name": output_dir.resolve().name,
            "command": command,
            "output_dir": str(output_dir),
            "corpus": " + ".join(corpus.corpus),
            "preset": model.preset,
            "size": model.size,
            "step_seconds": timed,
            "tokens_per_second": speed,
        }
        try:
            return finish(trainer, data, output_dir, known, stages)
        except KeyboardInterrupt as error:
            raise Interrupted(stopped(trainer), signal_of(error)) from None


@contextlib.contextmanager
def folder_of(args: PretrainingArguments) -> Iterator[Path]:
    """Lock the folder of the run, in the first process for all."""
    path = Path(args.output_dir).expanduser()
    with lock_run_folder(path, args.overwrite, args.resume) if is_first() else contextlib.nullcontext():
        check_is_shared(path, args.device)
        yield path
        wait_for_all()


def check_is_shared(path: Path, device: torch.device) -> None:
    """Raises OSError in all processes if one of them has another folder at `path`: a checkpoint would lack its part."""
    if not connected():
        return
    sign = path / from_first(lambda: f"{STAGING}{uuid.uuid4().hex}")
    if is_first():
        sign.touch()
    wait_for_all()
    tries = (sign.exists() or time.sleep(0.2) for _ in range(10))  # a network's file system may take a moment
    without = largest_of_all(0 if any(tries) else torch.distributed.get_rank(), device)
    if is_first():
        sign.unlink()
    if without:
        raise OSError(
            f"Process {without} does not see the folder {path} of process 0: give an --output_dir that all processes "
            "share, such as one on a network file system."
        )


def check_batch(data: PackedCorpora, args: PretrainingArguments) -> None:
    """Refuse to drop the last batch where it is the only one."""
    blocks = None if data.train_documents is None else len(data.train_blocks)
    if args.dataloader_drop_last and blocks is not None and blocks < args.train_batch_size:
        raise ValueError(f"{blocks} blocks are no whole batch: use --per_device_train_batch_size {blocks} or less.")


def finish(trainer: FolioTrainer, data: PackedCorpora, output_dir: Path, known: dict, stages: Stages) -> dict:
    """Judge the trained model, write its checkpoint, and return the report: what is `known`, and what was measured."""
    args, state = trainer.args, trainer.state
    trainer.check_weights()
    network = whole_model(trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False))
    if isinstance(network, FolioForCausalLM):
        network.loss_chunk_size = LOSS_CHUNK
    with stages("evaluation") as say:
        quality = evaluate(network, data, args.per_device_eval_batch_size)
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
        "steps": state.global_step,
        "tokens": state.num_input_tokens_seen,
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        **quality,
        "custom_code": bool(getattr(network.config, "auto_map", None)),
        "seconds": dict(stages.seconds),
        "peak_memory_bytes": peak_memory_bytes(),
        "seed": args.seed,
        "machine": machine(args.device),
        "world_size": args.world_size,
        "backend": torch.distributed.get_backend() if connected() else None,
        "versions": {"foliogpt": code_version(), "transformers": transformers.__version__, "torch": torch.__version__},
        "prompt": first_words(next(data.validation_texts())),
    }
    with stages("checkpoint") as say:
        if is_first():
            save_checkpoint(output_dir, network, data.tokenizer, state, report)
        say(str(output_dir))
    if is_first():
        check_cache(network, f"The weights are not at fault: {output_dir} is whole.")
    return report


def train(trainer: SafeTraining, checkpoint: Path | None, watch: Callable[[ProgressBar], StepClock]) -> float | None:
    """Train, from `checkpoint` on if there is one, and return the tokens a second, None if there was no step to take.

    Args:
        watch: adds what shows and writes down how the training goes, and returns the clock that its steps are timed by.

    Raises:
        Interrupted: if a signal stopped it.
    """
    if checkpoint is not None and reached_its_end(checkpoint, trainer.args):  # and was stopped before it was saved
        trainer.state = read_state(checkpoint)
        trainer.state.is_world_process_zero = trainer.is_world_process_zero()  # in the file it is that of the first
        best = trainer.state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
        trainer._load_from_checkpoint(best if best and Path(best).is_dir() else str(checkpoint))
        trainer.add_callback(MetricsFile(Path(trainer.args.output_dir) / METRICS_FILE))
        trainer.callback_handler.on_train_begin(trainer.args, trainer.state, trainer.control)
        trainer.continuity.log_end()
        return None
    if checkpoint is not None:
        trainer.args.eval_on_start = False  # it was
    check_cache(trainer.model)  # now, when nothing can be lost
    stop, progress = StopOnInterrupt(), ProgressBar()
    clock = watch(progress)
    trainer.add_callback(stop)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except KeyboardInterrupt as error:  # twice
        raise Interrupted(stopped(trainer), signal_of(error)) from None
    finally:
        progress.close()
        stop.close()
    signum = stop.agreed(trainer.args)
    if signum and saved_step(trainer) == trainer.state.global_step:
        raise Interrupted(stopped(trainer), signum)
    return clock.tokens_per_second(trainer.state)


def watch(trainer: FolioTrainer, data: PackedCorpora, progress: ProgressBar) -> StepClock:
    """Add what shows and writes down how the training goes; returns the clock that its steps are timed by."""
    args, model = trainer.args, trainer.model
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
    clock, metrics = StepClock(), MetricsFile(Path(args.output_dir) / METRICS_FILE)
    block_size = data.tokenizer.model_max_length
    peak = peak_flops(args.device, dtype)
    trainer.speed = Speed(clock, flops_per_token(model, block_size), peak and peak * args.world_size)
    (prompt,) = encode_texts(data.tokenizer, [first_words(next(data.validation_texts()))])
    prompt = prompt or [data.tokenizer.eos_token_id]  # a tokenizer may have nothing for these words
    samples = Samples(data.tokenizer, prompt, progress.write, metrics)
    for callback in (clock, metrics, progress, Warnings(progress.write), samples):
        trainer.add_callback(callback)
    return clock


def go_on(trainer: SafeTraining) -> str:
    """The command that continues a run."""
    return command_to_resume(trainer.command, trainer.args)


def saved_step(trainer: SafeTraining) -> int:
    """The step of the newest checkpoint, 0 if there is none."""
    return max((int(path.name.rpartition("-")[2]) for path in checkpoints(trainer.args.output_dir)), default=0)


def stopped(trainer: SafeTraining) -> str:
    """What a run says that a signal has ended, and the command that continues it."""
    state, saved = trainer.state, saved_step(trainer)
    command = go_on(trainer)
    if saved == 0:
        return f"Stopped before a checkpoint was saved. To begin again: {command}"
    if saved == state.max_steps:
        return f"The training is complete. To save its result: {command}"
    done = f"step {state.global_step:,} of {state.max_steps:,}"
    return f"Stopped after {done}; step {saved:,} is saved. Go on with: {command}"


class KeepSettings(TrainerCallback):
    """Writes the run's settings once training begins: nothing that was in the folder is lost to a false start."""

    def __init__(self, output_dir: Path, settings: dict):
        self.output_dir = output_dir
        self.settings = settings

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            start_run(self.output_dir, self.settings, is_new=state.global_step == 0)


def machine(device: torch.device) -> str:
    """The hardware that the run was timed on, for the report."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} CPU cores ({platform.machine()})" if device.type == "cpu" else device.type


def first_words(text: str) -> str:
    """A prompt for the model card: the beginning of a document, as it fits between quotes."""
    line = text.strip().splitlines()[0].replace("\\", "").replace('"', "")
    return " ".join(line[:40].split(" ")[:4]).strip() or "The"


def arguments_of_own(
    model: PreTrainedConfig | PreTrainedModel, tokenizer: str | None, block_size: int | None
) -> ModelArguments:
    """The settings of a model that the caller brings, for the run's files and its tokenizer."""
    config = getattr(model, "config", model).get_text_config()
    block_size = block_size or min(getattr(config, "max_position_embeddings", None) or LONGEST_BLOCK, LONGEST_BLOCK)
    return ModelArguments(tokenizer, config.vocab_size, preset=config.model_type, size="custom", block_size=block_size)


def own_model(model: PreTrainedConfig | PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The model that the caller brings, or one with fresh weights of the config.

    Raises:
        ValueError: if it has no embedding for some of the tokenizer's tokens.
    """
    network = model if isinstance(model, PreTrainedModel) else AutoModelForCausalLM.from_config(model)
    vocab_size = network.config.get_text_config().vocab_size
    if vocabulary_size(tokenizer) > vocab_size:
        raise ValueError(
            f"The tokenizer has {vocabulary_size(tokenizer):,} tokens, and the model {vocab_size:,}: make its config "
            f"with vocab_size={vocabulary_size(tokenizer)}."
        )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(network.config, name, getattr(tokenizer, name))
        setattr(network.generation_config, name, getattr(tokenizer, name))
    return network


def configured_model(
    model: ModelArguments | PreTrainedConfig | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    args: PretrainingArguments,
) -> PreTrainedModel:
    """The model of a run, which computes its loss as the run wants it."""
    network = new_model(model, tokenizer) if isinstance(model, ModelArguments) else own_model(model, tokenizer)
    is_ours = isinstance(network, FolioForCausalLM)
    if args.z_loss and not is_ours:
        raise ValueError(f"z_loss is {args.z_loss}, and {type(network).__name__} has none: leave it out.")
    # Trainer smooths logits, and then needs all of them; the chunked loss needs all of the head's weights.
    if is_ours and args.label_smoothing_factor == 0 and not args.fsdp:
        network.loss_chunk_size, network.z_loss = LOSS_CHUNK, args.z_loss
    if args.gradient_checkpointing:  # for the steps that are timed before Trainer is there
        network.activation_checkpointing_enable()
    return network


def total_steps(data: PackedCorpora, args: PretrainingArguments) -> int:
    """The number of optimizer steps of the run, by which time `minutes` have become `max_steps`."""
    if args.max_steps > 0:
        return args.max_steps
    return math.ceil(args.num_train_epochs * math.ceil(len(data.train_blocks) / args.global_batch_size))


def check_end(corpus: CorpusArguments, args: PretrainingArguments) -> None:
    """Refuse to train on a stream for ever."""
    if corpus.streaming and args.max_steps < 0 and args.minutes is None:
        raise ValueError("A stream has no end: say when to stop with --minutes or --max_steps.")


def new_model(model: ModelArguments, tokenizer: PreTrainedTokenizerBase) -> FolioForCausalLM:
    """A model with fresh weights for this tokenizer, and the generation settings that it will be saved with."""
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = preset_config(
        model.preset,
        model.size,
        vocab_size=vocabulary_size(tokenizer),
        max_position_embeddings=model.block_size,
        **ids,
    )
    network = FolioForCausalLM(config)
    network.generation_config.update(do_sample=True, temperature=0.8, top_p=0.95, **ids)
    return network


def save_checkpoint(output_dir: Path, network: FolioForCausalLM, tokenizer, state, report: dict) -> None:
    """Write everything that travels: weights, config, code, tokenizer, trainer state, curve and model card."""
    network.config.use_cache = True  # Trainer turned it off
    with staged(output_dir) as folder:
        network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        state.save_to_json(str(folder / STATE_FILE))
        write_report(report, folder)
        (folder / CARD_FILE).write_text(pretrained_card(report), encoding="utf-8")
        try:
            title = f"{report['name']}: {report['val_bits_per_byte']:.3f} bits a byte on held-out text"
            loss_curve(state.log_history, folder / CURVE_FILE, title)
        except ImportError as error:
            print(error)
