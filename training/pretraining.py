"""From a corpus to a checkpoint: the steps behind `folio pretrain` and `folio quickstart`."""

import math
import os
import platform
import shlex
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import datasets
import torch
import transformers
import yaml
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..modeling import FolioForCausalLM, preset_config
from ..tokenization import train_char_tokenizer, train_tokenizer
from .arguments import CorpusArguments, ModelArguments, PretrainingArguments, changed_settings
from .calibration import calibrate
from .callbacks import ProgressBar, StopOnInterrupt
from .checkpoints import RUN_FILE, STATE_FILE, last_checkpoint, prepare_output_dir, staged
from .corpora import corpus_bytes, load_corpus
from .evaluation import bits_per_byte, compression_baselines, total_loss
from .packing import PackedCollator, pack
from .report import (
    CARD_FILE,
    CURVE_FILE,
    Stages,
    amount,
    loss_curve,
    model_card,
    peak_memory_bytes,
    write_report,
)
from .trainer import FolioTrainer

LOSS_CHUNK = 512  # tokens whose logits are in memory at once
STREAMED_VALIDATION = 1000  # documents held out of an endless stream
COMPRESSIBLE = 64_000_000  # bytes of training text above which xz would take minutes


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
    output_dir = prepare_output_dir(args.output_dir, args.overwrite, args.resume)
    checkpoint = last_checkpoint(output_dir) if args.resume else None
    if args.resume and checkpoint is None:
        raise FileNotFoundError(f"{output_dir} has no whole checkpoint to resume from: start again with --overwrite.")
    if corpus.streaming and args.max_steps < 0 and args.minutes is None:
        raise ValueError("A stream has no end: say when to stop with --minutes or --max_steps.")
    transformers.set_seed(args.seed)

    with stages("corpus") as say:
        texts = read_corpus(corpus)
        say(f"{corpus.corpus}: {amount(texts.train_documents)} documents, and {len(texts.validation):,} held out")
    with stages("tokenizer") as say:
        tokenizer = get_tokenizer(model, texts.train, checkpoint)
        blocks = pack(texts.train, tokenizer, model.block_size)
        held_out = pack(texts.validation, tokenizer, model.block_size)
        say(f"{len(tokenizer):,} tokens, blocks of {model.block_size}")
    network = new_model(model, tokenizer)
    if args.label_smoothing_factor == 0:  # Trainer smooths logits, and then needs all of them
        network.loss_chunk_size = LOSS_CHUNK
    collator = PackedCollator(tokenizer.eos_token_id)
    with stages("calibration") as say:
        batch = collator(list(islice(blocks, args.per_device_train_batch_size)))
        timed = calibrate(network, batch, args)
        say(", ".join(f"{name} {seconds:.3f} s a step" for name, seconds in timed.items()) or "not needed")
    if not args.resume:  # a resumed run keeps its first settings, whatever was tried since
        (output_dir / RUN_FILE).write_text(yaml.safe_dump(changed_settings(corpus, model, args)), encoding="utf-8")

    tokens_per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size * model.block_size
    trainer = FolioTrainer(
        model=network,
        args=args,
        train_dataset=blocks,
        eval_dataset=held_out,
        data_collator=collator,
        processing_class=tokenizer,
    )
    with stages("training") as say:
        trained = train(trainer, checkpoint, tokens_per_step)
        say(f"{trained:,} steps of {tokens_per_step:,} tokens")
    network = trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    with stages("evaluation") as say:
        # In float32, as the checkpoint is loaded, whatever it was trained in.
        nats, predicted = total_loss(network, held_out, collator, args.per_device_eval_batch_size)
        quality = quality_of(nats, predicted, texts)
        compared = {"this model": quality["val_bits_per_byte"], **quality["baseline_bits_per_byte"]}
        say(", ".join(f"{name} {bits:.3f}" for name, bits in compared.items()) + " bits a byte of held-out text")
    report = {
        "name": output_dir.resolve().name,
        "command": command,
        "output_dir": str(output_dir),
        "corpus": corpus.corpus,
        "train_documents": texts.train_documents,
        "train_bytes": texts.train_bytes,
        "preset": model.preset,
        "size": model.size,
        "parameters": network.num_parameters(),
        "vocab_size": len(tokenizer),
        "steps": trainer.state.global_step,
        "tokens_per_step": tokens_per_step,
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "step_seconds": timed,
        **quality,
        "tokens_per_second": trained * tokens_per_step / stages.seconds["training"],
        "seconds": stages.seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "seed": args.seed,
        "machine": machine(args.device),
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
        "prompt": first_words(texts.validation[0]["text"]),
    }
    with stages("checkpoint") as say:
        save_checkpoint(output_dir, network, tokenizer, trainer.state, report)
        say(str(output_dir))
    write_report(report, output_dir)
    return report


@dataclass
class Texts:
    """The two splits of a corpus, and the size of the first, None for a stream."""

    train: datasets.Dataset | datasets.IterableDataset
    validation: datasets.Dataset
    train_documents: int | None = None
    train_bytes: int | None = None


def read_corpus(corpus: CorpusArguments) -> Texts:
    """Load the corpus; of a stream, hold out as many documents as fit in memory."""
    splits = load_corpus(corpus.corpus, text_column=corpus.text_column, streaming=corpus.streaming)
    train = splits["train"]
    if corpus.streaming:
        held_out = datasets.Dataset.from_list(list(splits["validation"].take(STREAMED_VALIDATION)))
        return Texts(train, held_out)
    return Texts(train, splits["validation"], len(train), corpus_bytes(train))


def train(trainer: FolioTrainer, checkpoint: Path | None, tokens_per_step: int) -> int:
    """Train, from `checkpoint` on if there is one, and return the number of steps taken.

    Raises:
        Interrupted: if the user stopped it.
    """
    progress, stop = ProgressBar(tokens_per_step), StopOnInterrupt()
    trainer.add_callback(progress)
    trainer.add_callback(stop)
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
    return state.global_step - (int(checkpoint.name.split("-")[1]) if checkpoint else 0)


def quality_of(nats: float, predicted: int, texts: Texts) -> dict:
    """How well `predicted` tokens with a summed loss of `nats` say the held-out text, beside compressors."""
    num_bytes = corpus_bytes(texts.validation)
    baselines = {}
    if texts.train_bytes is not None and texts.train_bytes <= COMPRESSIBLE:
        baselines = compression_baselines(texts.train["text"], texts.validation["text"])
    return {
        "val_documents": len(texts.validation),
        "val_bytes": num_bytes,
        "val_loss": nats / predicted,
        "val_perplexity": math.exp(min(nats / predicted, 700)),
        "val_bits_per_byte": bits_per_byte(nats, num_bytes),
        "baseline_bits_per_byte": baselines,
    }


def machine(device: torch.device) -> str:
    """The hardware that the run was timed on, for the report."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} CPU cores ({platform.machine()})" if device.type == "cpu" else device.type


def first_words(text: str) -> str:
    """A prompt for the model card: the beginning of a document, as it fits between quotes."""
    line = text.strip().splitlines()[0].replace("\\", "").replace('"', "")
    return " ".join(line[:40].split(" ")[:4])


def get_tokenizer(model: ModelArguments, texts, checkpoint: Path | None) -> PreTrainedTokenizerBase:
    """The tokenizer of the run that is resumed, the one that was named, or a new one trained on the texts."""
    if checkpoint is not None:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    elif model.tokenizer == "char":
        tokenizer = train_char_tokenizer(document["text"] for document in texts)
    elif model.tokenizer is not None:
        try:
            tokenizer = AutoTokenizer.from_pretrained(model.tokenizer)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"--tokenizer {model.tokenizer} is not a tokenizer's directory or Hub name "
                f"({str(error).splitlines()[0]})."
            ) from None
    else:
        tokenizer = train_tokenizer((document["text"] for document in texts), model.vocab_size)
    tokenizer.model_max_length = model.block_size
    return tokenizer


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
        (folder / CARD_FILE).write_text(model_card(report), encoding="utf-8")
        try:
            title = f"{report['name']}: {report['val_bits_per_byte']:.3f} bits a byte on held-out text"
            loss_curve(state.log_history, folder / CURVE_FILE, title)
        except ImportError as error:
            print(error)
