"""From a corpus to a checkpoint: the steps behind `folio pretrain` and `folio quickstart`."""

import math
import os
import platform
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
from .report import CARD_FILE, CURVE_FILE, Stages, loss_curve, model_card, peak_memory_bytes, write_report
from .trainer import FolioTrainer

LOSS_CHUNK = 1024  # tokens whose logits are in memory at once
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
        texts = load_corpus(corpus.corpus, text_column=corpus.text_column, streaming=corpus.streaming)
        if corpus.streaming:
            held_out = datasets.Dataset.from_list(list(texts["validation"].take(STREAMED_VALIDATION)))
            sizes = {"train_documents": "a stream of", "train_bytes": "unknown"}
        else:
            held_out = texts["validation"]
            sizes = {"train_documents": len(texts["train"]), "train_bytes": corpus_bytes(texts["train"])}
        sizes |= {"val_documents": len(held_out), "val_bytes": corpus_bytes(held_out)}
        say(f"{corpus.corpus}: {sizes['train_documents']} documents to train on, {len(held_out):,} held out")

    with stages("tokenizer") as say:
        tokenizer = get_tokenizer(model, texts["train"], checkpoint)
        blocks = {
            "train": pack(texts["train"], tokenizer, model.block_size),
            "validation": pack(held_out, tokenizer, model.block_size),
        }
        say(f"{len(tokenizer):,} tokens, blocks of {model.block_size}")

    network = new_model(model, tokenizer)
    collator = PackedCollator(tokenizer.eos_token_id)
    with stages("calibration") as say:
        first = [block for _, block in zip(range(args.per_device_train_batch_size), blocks["train"], strict=False)]
        timed = calibrate(network, collator(first), args)
        say(", ".join(f"{name} {seconds:.3f} s a step" for name, seconds in timed.items()) or "not needed")
    (output_dir / RUN_FILE).write_text(yaml.safe_dump(changed_settings(corpus, model, args)), encoding="utf-8")

    tokens_per_step = (
        args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size * model.block_size
    )
    stop = StopOnInterrupt()
    trainer = FolioTrainer(
        model=network,
        args=args,
        train_dataset=blocks["train"],
        eval_dataset=blocks["validation"],
        data_collator=collator,
        processing_class=tokenizer,
        callbacks=[ProgressBar(tokens_per_step), stop],
    )
    with stages("training") as say:
        started_at = trainer.state.global_step if checkpoint is None else int(checkpoint.name.split("-")[1])
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if stop.interrupted:
            raise Interrupted(
                f"Stopped after step {trainer.state.global_step:,} of {trainer.state.max_steps:,}; the checkpoint is "
                f"saved. Go on with: folio pretrain --output_dir {output_dir} --resume"
            )
        steps = trainer.state.global_step
        say(f"{steps:,} steps of {tokens_per_step:,} tokens")

    network = trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    with stages("evaluation") as say:
        # In float32, as the checkpoint is loaded, whatever it was trained in.
        nats, predicted = total_loss(network, blocks["validation"], collator, args.per_device_eval_batch_size)
        baselines = {}
        if not corpus.streaming and sizes["train_bytes"] <= COMPRESSIBLE:
            baselines = compression_baselines(texts["train"]["text"], held_out["text"])
        bpb = bits_per_byte(nats, sizes["val_bytes"])
        others = ", ".join(f"{name} {bits:.3f}" for name, bits in baselines.items())
        say(f"{bpb:.3f} bits a byte on held-out text" + (f"; {others}" if others else ""))

    report = {
        "name": output_dir.resolve().name,
        "command": command,
        "output_dir": str(output_dir),
        "corpus": corpus.corpus,
        **sizes,
        "preset": model.preset,
        "size": model.size,
        "parameters": network.num_parameters(),
        "vocab_size": len(tokenizer),
        "steps": steps,
        "tokens_per_step": tokens_per_step,
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "step_seconds": timed,
        "val_loss": nats / predicted,
        "val_perplexity": math.exp(min(nats / predicted, 700)),
        "val_bits_per_byte": bpb,
        "baseline_bits_per_byte": baselines,
        "tokens_per_second": (steps - started_at) * tokens_per_step / stages.seconds["training"],
        "seconds": stages.seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "seed": args.seed,
        "machine": f"{os.cpu_count()} CPU cores ({platform.machine()})"
        if args.device.type == "cpu"
        else torch.cuda.get_device_name() if args.device.type == "cuda" else args.device.type,
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
        "prompt": first_words(held_out[0]["text"]),
    }
    with stages("checkpoint") as say:
        save_checkpoint(output_dir, network, tokenizer, trainer.state, report)
        say(str(output_dir))
    write_report(report, output_dir)
    return report


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
    network.loss_chunk_size = LOSS_CHUNK
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
