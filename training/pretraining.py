"""From a corpus to a checkpoint: the steps behind `folio pretrain` and `folio quickstart`."""

import math
from collections.abc import Callable, Sequence
from itertools import islice

import datasets
import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel, TrainerCallback

from ..checkpoints.loading import context_length
from ..data.arguments import CorpusArguments
from ..data.packed_corpus import PackedCorpora, pack_corpora
from ..evaluation.bits_per_byte import evaluate
from ..evaluation.verdict import verdict
from ..jobs.cards import pretrained_card
from ..jobs.processes import broadcast_from_main, is_main_process
from ..jobs.report import Stages
from ..jobs.resume import check_same_text, checkpoint_to_resume, read_state, run_settings_of
from ..jobs.run_folder import run_metadata
from ..modeling import FolioForCausalLM
from ..tokenization import encode_texts
from .arguments import ModelArguments, PretrainingArguments, run_settings
from .calibration import calibrate
from .config_fields import chosen_fields
from .device import choose_for_device
from .flops import flops_per_token, peak_flops
from .new_model import LOSS_CHUNK, configured_model, starting_config, usual_block
from .out_of_memory import Step, guard_memory
from .run import open_run_folder, resumable, run_facts, save_result, train
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
        model: a preset, a size and fields, or a checkpoint to continue from; or the config of any causal language model
            in transformers, which gets fresh weights; or a model, trained as it is. Default: `folio` at `nano`.
        args: the settings; what they leave open is measured and filled in.
        tokenizer, block_size: with a config or a model: the tokenizer (a directory, a Hub name or "char"; None trains
            one) and the tokens in a training example (None: the model's context, 1,024 at most).
        optimizer: makes the optimizer of the model; then `args.optim` and its learning rates are not used.
        command: the command for the model card.
        stages: collects times and prints a line for each stage.

    Returns the report, as written to report.json. Raises ValueError or OSError for settings and input that do not work,
    and Interrupted if a signal stopped the training; the message has the command that continues it.
    """
    stages, args = stages or Stages(), args or PretrainingArguments()
    corpus = corpus if isinstance(corpus, CorpusArguments) else CorpusArguments(corpus)
    own = None if model is None or isinstance(model, ModelArguments) else model
    if own is not None:
        its = getattr(own, "config", own).get_text_config()
        model = ModelArguments(tokenizer, its.vocab_size, its.model_type, "custom", block_size or usual_block(its))
    elif tokenizer is not None or block_size is not None:
        raise ValueError("tokenizer and block_size belong to a config or a model: give them in ModelArguments instead.")
    model = model or ModelArguments()
    check_end(corpus, args)
    stages.silent = stages.silent or not is_main_process()
    with open_run_folder(args) as output_dir, guard_memory(args, STREAM_HINT) as check_fits:
        checkpoint = None
        begun = next((f.parent for f in output_dir.glob("checkpoint-*/config.json")), None) if args.resume else None
        config = starting_config(model, begun) if own is None else getattr(own, "config", own)
        args.set_default_learning_rates(config.get_text_config().hidden_size, is_trained=model.init_from is not None)
        if args.resume:
            settings = run_settings(corpus, model, args)
            fixed = (*args.IMMUTABLE_ON_RESUME, *(args.IMMUTABLE_FOR_STREAMS if corpus.streaming else ()))
            checkpoint = broadcast_from_main(lambda: checkpoint_to_resume(output_dir, settings, args, fixed))
        transformers.set_seed(args.seed)
        source = model.tokenizer or model.init_from
        data = pack_corpora(corpus, source, model.vocab_size, model.block_size, stages, checkpoint, args.seed)
        fingerprint = data.fingerprint or run_settings(corpus, model, args)["corpus"]
        if args.resume:
            check_same_text(run_settings_of(output_dir, checkpoint), fingerprint)
        check_batch(data, args)
        network = configured_model(own or model, data.tokenizer, args, checkpoint)
        choose_for_device(network, data, model, args, stages)
        check_fits(Step(network, args, model.block_size))
        with stages("calibration") as say:
            batch = data.collator(list(islice(data.train_blocks, args.per_device_train_batch_size)))
            done = read_state(checkpoint).global_step if checkpoint else 0
            timed = calibrate(network, batch, args, done, total_steps(data, args))
            say(", ".join(f"{name} {seconds:.3f} s a step" for name, seconds in timed.items()) or "not needed")
        settings = {**run_settings(corpus, model, args), **run_metadata(fingerprint, args.global_batch_size)}
        trainer = (trainer_class or FolioTrainer)(
            model=network,
            args=args,
            train_dataset=data.train_blocks,
            eval_dataset=validation_subset(data, args),
            data_collator=data.collator,
            processing_class=data.tokenizer,
            callbacks=list(callbacks),
            optimizers=(optimizer(network) if optimizer else None, None),
        )
        dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
        trainer.clock.flops_per_token = flops_per_token(network, data.tokenizer.model_max_length)
        trainer.clock.peak_flops = (peak_flops(args.device, dtype) or 0) * args.world_size
        prompt = args.sample_prompt or first_words(next(data.validation_texts()))
        prompt_ids = encode_texts(data.tokenizer, [prompt])[0] or [data.tokenizer.eos_token_id]
        with stages("training") as say:
            train(trainer, checkpoint, settings, prompt_ids, "a smaller --size")
            say(f"{trainer.state.global_step:,} steps, {trainer.state.num_input_tokens_seen:,} tokens")
        known = {
            "command": command,
            "corpus": " + ".join(corpus.corpus),
            "preset": model.preset or config.model_type,
            "size": model.size or "custom",
            "fields": chosen_fields(model, config),
            "base_model": model.init_from,
            "step_seconds": timed,
            "prompt": prompt,
        }
        with resumable(trainer):
            return evaluate_and_save(trainer, data, known, stages)


def check_batch(data: PackedCorpora, args: PretrainingArguments) -> None:
    """Raise ValueError if the only batch would be dropped as the last one."""
    is_finite = data.train_documents is not None
    if args.dataloader_drop_last and is_finite and (blocks := len(data.train_blocks)) < args.train_batch_size:
        few = f"Only {blocks} training sequences, fewer than one batch"
        raise ValueError(f"{few}: use --per_device_train_batch_size {blocks} or less.")


def evaluate_and_save(trainer: FolioTrainer, data: PackedCorpora, known: dict, stages: Stages) -> dict:
    """Evaluate the trained model and save it; return the report: what is `known`, and what was measured."""
    trainer.check_weights()
    network = whole_model(trainer.model_wrapped)
    if isinstance(network, FolioForCausalLM) and trainer.args.device.type == "cpu":
        network.loss_chunk_size = LOSS_CHUNK
    with stages("evaluation") as say:
        quality = evaluate(network, data, trainer.args.per_device_eval_batch_size)
        compared = {"this model": quality["val_bits_per_byte"], **quality["baseline_bits_per_byte"]}
        say(", ".join(f"{name} {bits:.3f}" for name, bits in compared.items()) + " bits per byte of held-out text")
        if changed := quality["val_documents_changed"]:
            say(f"too good, as the tokenizer does not give {changed:,} of the documents back as they were")
    report = {
        **known,
        "train_documents": data.train_documents,
        "train_bytes": data.train_bytes,
        "parameters": network.num_parameters(),
        "vocab_size": len(data.tokenizer),
        **quality,
        **run_facts(trainer, network, stages),
    }
    report["verdict"] = verdict(report, trainer.state.log_history)
    data.tokenizer.model_max_length = context_length(network) or data.tokenizer.model_max_length  # so far of a block
    quality = f"{report['val_bits_per_byte']:.3f} bits per byte on held-out text"
    save_result(trainer, network, report, pretrained_card(report), quality, stages)
    return report


def evaluations(args: PretrainingArguments, steps: int) -> float:
    """Return how often a run of so many steps evaluates the model on the way, if it does so after some steps."""
    if args.eval_strategy != "steps" or not args.eval_steps:
        return 0
    return max(1, 1 / args.eval_steps if args.eval_steps < 1 else steps / args.eval_steps)


def validation_subset(data: PackedCorpora, args: PretrainingArguments) -> datasets.Dataset:
    """Return the held-out blocks, or every n-th of them so that evaluations take a tenth of the training's time."""
    blocks, steps = datasets.concatenate_datasets(data.validation_blocks), total_steps(data, args)
    times = 0 if args.load_best_model_at_end else evaluations(args, steps)
    if not times:
        return blocks
    # Without the way back, a block takes a third of the time.
    most = max(3 * EVALUATION_SHARE * steps * args.global_batch_size / times, args.per_device_eval_batch_size)
    return blocks.select(range(0, len(blocks), math.ceil(len(blocks) / most)))


def first_words(text: str) -> str:
    """Return the first words, without quotes, of a paragraph that begins as texts do: a text may begin within one."""
    lines = [paragraph.strip().partition("\n")[0] for paragraph in text[:PROMPT_WITHIN].split("\n\n")]
    lines = [line.replace("\\", "").replace('"', "") for line in lines]
    line = next((line for line in lines if line[:1].isalpha() and not line[0].islower()), lines[0])
    return " ".join(line[:40].split(" ")[:4]).strip() or "The"


def total_steps(data: PackedCorpora, args: PretrainingArguments) -> int:
    """Return the number of optimizer steps of the run; `minutes` must have become `max_steps`."""
    if args.max_steps > 0 or data.train_documents is None:
        return args.max_steps
    return math.ceil(args.num_train_epochs * math.ceil(len(data.train_blocks) / args.global_batch_size))


def check_end(corpus: CorpusArguments, args: PretrainingArguments) -> None:
    """Raise ValueError if a run would read a stream for ever."""
    if corpus.streaming and args.max_steps < 0 and args.minutes is None:
        raise ValueError("A stream has no end: set --minutes or --max_steps.")
