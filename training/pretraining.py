"""From a corpus to a checkpoint: the steps behind `folio pretrain` and `folio quickstart`."""

import os
import platform
import shlex
from itertools import islice
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedTokenizerBase, TrainerCallback

from ..modeling import FolioForCausalLM, preset_config
from .arguments import CorpusArguments, ModelArguments, PretrainingArguments, run_settings
from .calibration import calibrate
from .callbacks import ProgressBar, StepClock, StopOnInterrupt
from .checkpoints import STATE_FILE, staged
from .data import prepare_data
from .evaluation import evaluate
from .report import CARD_FILE, CURVE_FILE, Stages, loss_curve, model_card, peak_memory_bytes, write_report
from .resume import checkpoint_to_resume, reached_its_end, read_state
from .run_folder import claimed, forget_run, write_settings
from .trainer import FolioTrainer

LOSS_CHUNK = 512  # tokens whose logits are in memory at once


class Interrupted(KeyboardInterrupt):
    """Training was stopped by the user. The message says where it was saved and how to go on."""


def pretrain(
    corpus: CorpusArguments,
    model: ModelArguments,
    args: PretrainingArguments,
    command: str = "",
    stages: Stages | None = None,
) -> dict:
    """Train a model from scratch and write its checkpoint to `args.output_dir`.

    Args:
        corpus, model, args: the settings; `args` is changed where it left things to be measured.
        command: what the model card says the run was made by.
        stages: collects times and says a line for each stage.

    Returns:
        The report, as written to report.json.

    Raises:
        ValueError, OSError: for settings and input that do not work; the message says what to do.
        Interrupted: if the user stopped the training.
    """
    stages = stages or Stages()
    if corpus.streaming and args.max_steps < 0 and args.minutes is None:
        raise ValueError("A stream has no end: say when to stop with --minutes or --max_steps.")
    with claimed(args.output_dir, args.overwrite, args.resume) as output_dir:
        checkpoint = None
        if args.resume:
            checkpoint = checkpoint_to_resume(output_dir, run_settings(corpus, model, args), args)
        transformers.set_seed(args.seed)
        data = prepare_data(corpus, model, checkpoint, stages)
        network = new_model(model, data.tokenizer)
        if args.label_smoothing_factor == 0:  # Trainer smooths logits, and then needs all of them
            network.loss_chunk_size = LOSS_CHUNK
        with stages("calibration") as say:
            batch = data.collator(list(islice(data.train_blocks, args.per_device_train_batch_size)))
            timed = calibrate(network, batch, args, read_state(checkpoint).global_step if checkpoint else 0)
            say(", ".join(f"{name} {seconds:.3f} s a step" for name, seconds in timed.items()) or "not needed")
        trainer = FolioTrainer(
            model=network,
            args=args,
            train_dataset=data.train_blocks,
            eval_dataset=data.validation_blocks,
            data_collator=data.collator,
            processing_class=data.tokenizer,
            callbacks=[KeepSettings(output_dir, run_settings(corpus, model, args))],
        )
        tokens_per_step = trainer.get_total_train_batch_size(args) * model.block_size
        with stages("training") as say:
            speed = train(trainer, checkpoint, tokens_per_step)
            say(f"{trainer.state.global_step:,} steps of {tokens_per_step:,} tokens")
        network = trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
        with stages("evaluation") as say:
            quality = evaluate(network, data, args.per_device_eval_batch_size)
            compared = {"this model": quality["val_bits_per_byte"], **quality["baseline_bits_per_byte"]}
            say(", ".join(f"{name} {bits:.3f}" for name, bits in compared.items()) + " bits a byte of held-out text")
            if unknown := quality["val_unknown_tokens"]:
                say(f"too good, as {unknown:,} tokens of it stand for characters that the tokenizer does not know")
        report = {
            "name": output_dir.resolve().name,
            "command": command,
            "output_dir": str(output_dir),
            "corpus": corpus.corpus,
            "train_documents": data.train_documents,
            "train_bytes": data.train_bytes,
            "preset": model.preset,
            "size": model.size,
            "parameters": network.num_parameters(),
            "vocab_size": len(data.tokenizer),
            "steps": trainer.state.global_step,
            "tokens_per_step": tokens_per_step,
            "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
            "step_seconds": timed,
            **quality,
            "tokens_per_second": speed,
            "seconds": dict(stages.seconds),
            "peak_memory_bytes": peak_memory_bytes(),
            "seed": args.seed,
            "machine": machine(args.device),
            "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
            "prompt": first_words(data.validation[0]["text"]),
        }
        with stages("checkpoint") as say:
            save_checkpoint(output_dir, network, data.tokenizer, trainer.state, report)
            say(str(output_dir))
    return report


def train(trainer: FolioTrainer, checkpoint: Path | None, tokens_per_step: int) -> float | None:
    """Train, from `checkpoint` on if there is one, and return the tokens a second, None if there was no step to take.

    Raises:
        Interrupted: if the user stopped it.
    """
    if checkpoint is not None and reached_its_end(checkpoint, trainer.args):  # and was stopped before it was saved
        trainer._load_from_checkpoint(str(checkpoint))
        trainer.state = read_state(checkpoint)
        return None
    progress, stop, clock = ProgressBar(tokens_per_step), StopOnInterrupt(), StepClock()
    for callback in (progress, stop, clock):
        trainer.add_callback(callback)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        progress.close()
        stop.close()
    state = trainer.state
    if stop.interrupted and state.global_step < state.max_steps:
        raise Interrupted(
            f"Stopped after step {state.global_step:,} of {state.max_steps:,}; the checkpoint is saved. "
            f"Go on with: folio pretrain --output_dir {shlex.quote(trainer.args.output_dir)} --resume"
        )
    return clock.steps * tokens_per_step / clock.seconds


class KeepSettings(TrainerCallback):
    """Writes the run's settings once training begins: nothing that was in the folder is lost to a false start."""

    def __init__(self, output_dir: Path, settings: dict):
        self.output_dir = output_dir
        self.settings = settings

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            forget_run(self.output_dir)
        write_settings(self.output_dir, self.settings)


def machine(device: torch.device) -> str:
    """The hardware that the run was timed on, for the report."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} CPU cores ({platform.machine()})" if device.type == "cpu" else device.type


def first_words(text: str) -> str:
    """A prompt for the model card: the beginning of a document, as it fits between quotes."""
    line = text.strip().splitlines()[0].replace("\\", "").replace('"', "")
    return " ".join(line[:40].split(" ")[:4])


def new_model(model: ModelArguments, tokenizer: PreTrainedTokenizerBase) -> FolioForCausalLM:
    """A model with fresh weights for this tokenizer, and the generation settings that it will be saved with."""
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = preset_config(
        model.preset, model.size, vocab_size=len(tokenizer), max_position_embeddings=model.block_size, **ids
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
        (folder / CARD_FILE).write_text(model_card(report), encoding="utf-8")
        try:
            title = f"{report['name']}: {report['val_bits_per_byte']:.3f} bits a byte on held-out text"
            loss_curve(state.log_history, folder / CURVE_FILE, title)
        except ImportError as error:
            print(error)
