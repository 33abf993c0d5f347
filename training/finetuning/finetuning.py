"""From a checkpoint and examples to a fine-tuned checkpoint or an adapter: the steps behind `folio finetune`."""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import transformers
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...checkpoints.base_record import BaseRecord, hash_weights
from ...checkpoints.loading import context_length, fit_embeddings, load_checkpoint, load_tokenizer_of, one_line
from ...checkpoints.no_checkpoint import ADAPTER_CONFIG
from ...checkpoints.quantization import quantize
from ...data.arguments import LOADED_FOR, DataArguments
from ...data.examples import Examples, prepare_examples
from ...jobs.cards import finetuned_card
from ...jobs.processes import broadcast_from_main, is_main_process, main_process_first
from ...jobs.report import Stages
from ...jobs.resume import checkpoint_to_resume, run_settings_of
from ...jobs.run_folder import FINGERPRINT, run_metadata
from ...tokenization import chat_tokenizer, encode_chat, encode_texts
from ..arguments import absolute_if_path, run_settings
from ..memory import gigabytes
from ..monitoring import Samples
from ..new_model import LONGEST_BLOCK, probe_attention
from ..out_of_memory import Step, guard_memory
from ..run import open_run_folder, resumable, run_facts, save_result, train
from .adapters import add_adapter, turn_tokens
from .arguments import PROMPTS, FinetuningArguments, MethodArguments, set_task_defaults
from .trainers import loss_bytes, make_trainer


def finetune(
    data_args: DataArguments,
    method: MethodArguments,
    args: FinetuningArguments,
    command: str = "",
    stages: Stages | None = None,
) -> dict:
    """Adapt a model and write the result, a checkpoint or an adapter, to `args.output_dir`.

    `args` is of the class that `arguments_of(task)` returns; `command` and `stages` are as in `pretrain`. Returns the
    report, as written to report.json. Raises ValueError or OSError for settings and input that do not work, ImportError
    if PEFT or TRL is missing, and Interrupted if the user stopped the training.
    """
    stages = stages or Stages()
    set_task_defaults(data_args, method, args, _config(method).get_text_config().hidden_size)
    stages.silent = stages.silent or not is_main_process()
    with open_run_folder(args) as output_dir, guard_memory(args) as check:
        settings, checkpoint = run_settings(data_args, method, args), None
        if args.resume:
            fixed = args.IMMUTABLE_ON_RESUME
            checkpoint = broadcast_from_main(lambda: checkpoint_to_resume(output_dir, settings, args, fixed))
        transformers.set_seed(args.seed)
        ready = _prepare(data_args, method, args, stages)
        fingerprint = f"{ready.data.fingerprint()}-{ready.record.weights_hash}"
        if checkpoint is not None and fingerprint != run_settings_of(output_dir, checkpoint).get(FINGERPRINT):
            raise ValueError("The data, or the model, is not what this run began with: start another run for it.")
        _check_memory(check, ready, data_args.task, method, args, stages)
        settings |= run_metadata(fingerprint, args.global_batch_size)
        trainer = make_trainer(data_args.task, ready.network, ready.tokenizer, ready.data, args)
        trainer.command = f"folio finetune {data_args.task}"
        with stages("training") as say:
            smaller = "a smaller --lora_r" if method.method in ("lora", "dora") else "a --method with fewer weights"
            train(trainer, checkpoint, settings, _prompt_ids(ready.tokenizer, ready.data.prompt), smaller)
            say(f"{trainer.state.global_step:,} steps")
        known = {
            "command": command,
            "task": data_args.task,
            "loads_as": LOADED_FOR[data_args.task],
            "data": data_args.data,
            "base_model": method.model,
            "method": method.method,
        }
        with resumable(trainer):
            return _evaluate_and_save(trainer, ready, known, stages)


@dataclass
class _Prepared:
    """A model, its tokenizer and its data, ready for a trainer."""

    network: Any  # the model, or its adapter with the model in it
    tokenizer: PreTrainedTokenizerBase
    data: Examples
    record: BaseRecord
    trainable: int
    resized: bool  # the tokenizer has more tokens than the base


def _prepare(data_args: DataArguments, method: MethodArguments, args: FinetuningArguments, stages: Stages) -> _Prepared:
    """Load the model, encode the data for it, and add the adapter."""
    task, source = data_args.task, str(Path(method.model).expanduser())
    tokenizer = base_tokenizer = load_tokenizer_of(method.model, source, method.trust_remote_code)
    generation: dict[str, Any] = {}
    if task in ("sft", "dpo"):
        tokenizer, generation = chat_tokenizer(base_tokenizer)
    elif tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    with stages("model") as say:
        # A head can be made only when the labels are known.
        model, missing = None, []
        if LOADED_FOR[task] == "lm":
            model, missing = load_checkpoint(method.model, "lm", method.trust_remote_code)
        fits_data, args.max_length = args.max_length is None, _max_length(model, tokenizer, method, args)
        if args.packing and not probe_attention(model)[1]:
            args.packing = False
            say("packed examples would attend to each other, so they are not packed")
        say(f"{method.model}, {args.max_length:,} tokens at most")
    with main_process_first():  # who find in the cache what it has stored
        data = prepare_examples(data_args, tokenizer, args.max_length, stages)
        if args.packing and task == "sft":
            if fits_data:
                args.max_length = max(map(_longest, (data.train, data.validation)))
            from trl import pack_dataset

            pack = partial(pack_dataset, seq_length=args.max_length, map_kwargs={"desc": "packing"})
            data.train, data.validation = pack(data.train), pack(data.validation)
    with stages("adapter") as say:
        if model is None:
            model, missing = load_checkpoint(method.model, task, method.trust_remote_code, **data.head_fields())
        record = BaseRecord(hash_weights(model, missing), LOADED_FOR[task], data.head_fields().get("id2label"))
        resized = fit_embeddings(model, tokenizer)
        model.config.pad_token_id = tokenizer.pad_token_id
        model.get_input_embeddings().padding_idx = None  # it may be the end token; padding has no gradient anyway
        model.name_or_path = absolute_if_path(method.model)  # by which the adapter will find its base
        if generation:
            model.generation_config.update(**generation)
        tokens = turn_tokens(base_tokenizer, tokenizer) if generation else []
        if method.load_in_8bit:
            quantize(model, "int8")
        network = model if method.method == "full" else add_adapter(model, task, method, tokens)
        trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
        say(f"{method.method}: {trainable:,} parameters to train")
        if args.packing:
            say(f"on rows of {args.max_length:,} tokens")
    return _Prepared(network, tokenizer, data, record, trainable, resized)


def _config(method: MethodArguments):
    source = Path(method.model).expanduser()
    if (source / ADAPTER_CONFIG).is_file():
        raise ValueError(f"{method.model} is an adapter: merge it first with folio merge {method.model} DIRECTORY.")
    with one_line(method.model):
        return transformers.AutoConfig.from_pretrained(str(source), trust_remote_code=method.trust_remote_code)


def _max_length(model: PreTrainedModel | None, tokenizer, method: MethodArguments, args: FinetuningArguments) -> int:
    """Return the tokens of an example: what was asked for, or as many as the model can read, 1,024 at most."""
    # Of a model with a new head there is the config alone.
    known: Any = model or SimpleNamespace(config=_config(method))
    context = min(context_length(known) or tokenizer.model_max_length, tokenizer.model_max_length)
    if method.method in PROMPTS:
        context -= method.num_virtual_tokens
    if args.max_length is not None and args.max_length > context:
        raise ValueError(f"max_length is {args.max_length}, and the model reads {context} tokens: use that or less.")
    if context < 2:
        raise ValueError(f"{method.num_virtual_tokens} num_virtual_tokens leave no room for a text: use fewer.")
    return args.max_length or min(context, LONGEST_BLOCK)


def _longest(rows: Dataset) -> int:
    """Return the tokens of the longest row; a preference has those of its prompt and its longer answer."""
    if "input_ids" in rows.column_names:
        return max(map(len, rows["input_ids"]))
    return max(len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in rows)


def _check_memory(check, ready: _Prepared, task: str, method: MethodArguments, args, stages: Stages) -> None:
    """Print the memory of a step; split the batch, or raise ValueError, if there is not as much."""
    if method.load_in_8bit or args.world_size > 1:  # such tensors cannot be followed; processes share their memory
        args.auto_find_batch_size = False
        return
    length = min(_longest(ready.data.train), args.max_length)
    command, smaller = f"folio finetune {task}", "use a shorter --max_length or a smaller model"
    sequences, loss = 2 if task == "dpo" else 1, loss_bytes(task, ready.network, args)
    step = Step(ready.network, args, length, command, smaller, sequences, loss)
    with stages("memory") as say:
        memory = check(step)
        needed = gigabytes(memory.peak) if memory else "far less than is free"
        say(f"{needed} for {args.per_device_train_batch_size} rows of up to {length:,} tokens")


def _prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: list[dict] | str | None) -> list[int]:
    """Return the ids that samples continue: a chat or a text, or nothing if a head writes none."""
    if isinstance(prompt, str):
        return encode_texts(tokenizer, [prompt])[0]
    return encode_chat(tokenizer, prompt, add_generation_prompt=True)["input_ids"] if prompt else []


def _evaluate_and_save(trainer, ready: _Prepared, known: dict, stages: Stages) -> dict:
    """Evaluate and save what was trained; return the report: what is `known`, and what was measured."""
    data, network, is_adapter = ready.data, trainer.model_wrapped, known["method"] != "full"
    trainer.check_weights()
    with stages("evaluation") as say:
        trainer.remove_callback(Samples)  # it has shown the last one
        measured = trainer.evaluate()
        metrics = {"loss": measured["eval_loss"]}
        if known["task"] in ("sft", "lm"):
            metrics["perplexity"] = math.exp(min(metrics["loss"], 700))
        for name in ("accuracy", "mean_token_accuracy", "rewards/accuracies"):
            if f"eval_{name}" in measured:
                metrics[name.replace("/", "_")] = measured[f"eval_{name}"]
        say(", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in metrics.items()))
    report = {
        **known,
        "kind": data.kind,
        "train_examples": data.sizes[0],
        "val_examples": data.sizes[1],
        "trainable_parameters": ready.trainable,
        "resized": ready.resized,
        "num_labels": len(data.labels),
        "parameters": sum(p.numel() for p in network.parameters()),
        "metrics": metrics,
        **{f"val_{name}": value for name, value in metrics.items()},
        **run_facts(trainer, network, stages),
        "prompt": data.prompt,
    }
    # The adapter itself, not the copy that TRL holds as the reference of dpo.
    options = {"selected_adapters": ["default"]} if is_adapter else {}
    more = [ready.record.save] if is_adapter else []
    if is_adapter and known["loads_as"] == "lm":
        more.append(network.generation_config.save_pretrained)
    quality = f"loss {metrics['loss']:.3f} on held-out examples"
    save_result(trainer, network, report, finetuned_card(report), quality, stages, more, **options)
    return report
