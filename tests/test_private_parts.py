"""The private parts of other libraries that the package uses or overrides are still there.

A method that is overridden under a name that the library no longer calls fails without an error, so these are checked
by name. The ranges in pyproject.toml end where such a part may go.
"""

import inspect
import re
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]


class Part(NamedTuple):
    """A private part: the module that has it, its path there, our file that needs it, and what for."""

    module: str
    path: str
    file: str
    purpose: str


TRAINER, MODEL = "transformers.trainer", "transformers.modeling_utils"
DPO = "trl.trainer.dpo_trainer"
PARTS = [
    Part("argparse", "HelpFormatter._format_action_invocation", "scripts/arguments.py", "one name for each option"),
    Part("argparse", "HelpFormatter._get_help_string", "scripts/arguments.py", "the defaults that say something"),
    Part("torch.cuda.memory", "_cuda_endAllocateToPool", "serving/cuda_graphs.py", "the end of an invalid capture"),
    Part(TRAINER, "Trainer._tr_loss", "training/continuity.py", "the logged loss after a resume"),
    Part(TRAINER, "Trainer._total_loss_scalar", "training/continuity.py", "the mean loss of a resumed run"),
    Part(TRAINER, "Trainer._globalstep_last_logged", "training/continuity.py", "the logged loss after a resume"),
    Part(TRAINER, "Trainer._train_batch_size", "training/continuity.py", "the position in a stream after a resume"),
    Part(TRAINER, "Trainer._train_batch_size", "training/parallel_trainer.py", "the last batch in several processes"),
    Part(TRAINER, "Trainer.get_batch_samples", "training/parallel_trainer.py", "the last batch in several processes"),
    Part(TRAINER, "Trainer.evaluation_loop", "training/parallel_trainer.py", "the validation loss"),
    Part(TRAINER, "Trainer._prepare_inputs", "training/parallel_trainer.py", "the validation loss"),
    Part(TRAINER, "Trainer._track_num_input_tokens", "training/parallel_trainer.py", "the number of tokens seen"),
    Part(TRAINER, "Trainer._save_optimizer_and_scheduler", "training/parallel_trainer.py", "checkpoints under FSDP2"),
    Part(TRAINER, "Trainer._load_optimizer_and_scheduler", "training/parallel_trainer.py", "resuming under FSDP2"),
    Part(TRAINER, "Trainer._load_from_checkpoint", "training/parallel_trainer.py", "resuming under FSDP2"),
    Part(TRAINER, "Trainer._load_from_checkpoint", "training/run.py", "loading the best checkpoint"),
    Part(TRAINER, "Trainer._load_best_model", "training/parallel_trainer.py", "the best model under FSDP2"),
    Part(TRAINER, "Trainer._maybe_log_save_evaluate", "training/trainer.py", "the check that the model learns"),
    Part(TRAINER, "Trainer._save_checkpoint", "training/trainer.py", "checkpoints that a kill cannot damage"),
    Part(TRAINER, "Trainer._build_accelerator_args", "training/trainer.py", "compiling a model by its parts"),
    Part(
        TRAINER, "Trainer._track_num_input_tokens", "training/trainer.py", "counting tokens without waiting for a GPU"
    ),
    Part("transformers.training_args", "TrainingArguments._n_gpu", "training/device.py", "one GPU for one process"),
    Part(TRAINER, "Trainer._get_output_dir", "training/trainer.py", "where checkpoints are written"),
    Part(
        TRAINER,
        "Trainer._loss_shifts_labels",
        "training/finetuning/trainers.py",
        "the number of labels that a loss is divided by",
    ),
    Part("transformers.trainer_utils", "rotate_checkpoints", "training/trainer.py", "the removal of old checkpoints"),
    Part(MODEL, "PreTrainedModel._init_weights", "modeling/modeling_folio.py", "the initial weights"),
    Part(MODEL, "PreTrainedModel._no_split_modules", "modeling/modeling_folio.py", "device_map and FSDP"),
    Part(MODEL, "PreTrainedModel._skip_keys_device_placement", "modeling/modeling_folio.py", "a cache on two GPUs"),
    Part(MODEL, "PreTrainedModel._supports_flash_attn", "modeling/modeling_folio.py", "FlashAttention"),
    Part(MODEL, "PreTrainedModel._supports_sdpa", "modeling/modeling_folio.py", "torch's fast attention"),
    Part(MODEL, "PreTrainedModel._supports_flex_attn", "modeling/modeling_folio.py", "FlexAttention"),
    Part(MODEL, "PreTrainedModel._supports_attention_backend", "modeling/modeling_folio.py", "vLLM's attention"),
    Part(MODEL, "PreTrainedModel._can_compile_fullgraph", "modeling/modeling_folio.py", "the static cache, compiled"),
    Part(MODEL, "PreTrainedModel._can_record_outputs", "modeling/modeling_folio.py", "hidden states and attentions"),
    Part(MODEL, "PreTrainedModel._tied_weights_keys", "modeling/modeling_folio.py", "tied embeddings"),
    Part(MODEL, "PreTrainedModel._tied_weights_keys", "checkpoints/sources.py", "the import of tied checkpoints"),
    Part(MODEL, "PreTrainedModel._tp_plan", "modeling/modeling_folio.py", "tensor parallelism"),
    Part(MODEL, "PreTrainedModel._pp_plan", "modeling/modeling_folio.py", "pipeline parallelism"),
    Part(MODEL, "PreTrainedModel._fsdp_plan", "modeling/modeling_folio.py", "transformers' own FSDP"),
    Part(MODEL, "slice_logits_to_keep", "modeling/modeling_folio.py", "the logits of some positions"),
    Part("transformers", "PreTrainedConfig._attn_implementation", "modeling/attention.py", "the attention function"),
    Part(
        "transformers",
        "PreTrainedConfig._attn_implementation",
        "modeling/forward_arguments.py",
        "the refusal of unknown arguments",
    ),
    Part("transformers.utils.generic", "merge_with_config_defaults", "modeling/modeling_folio.py", "the import"),
    Part("transformers.utils.output_capturing", "capture_outputs", "modeling/modeling_folio.py", "the import"),
    Part(
        "transformers.utils.chat_template_utils", "render_jinja_template", "tokenization/special_tokens.py", "all chats"
    ),
    Part(
        "transformers.utils.chat_template_utils",
        "render_jinja_template",
        "tokenization/template_limits.py",
        "chat templates of others",
    ),
    Part(
        "uvicorn.protocols.http.h11_impl",
        "H11Protocol.on_response_complete",
        "serving/http_server.py",
        "the time limit of a client's next request",
    ),
    Part(
        "trl.trainer.base_trainer",
        "_BaseTrainer._send_telemetry",
        "training/finetuning/trainers.py",
        "telemetry that stays off",
    ),
    Part("trl.trainer.utils", "_CHUNKED_LOGPROB_CHUNK_SIZE", "training/finetuning/trainers.py", "the memory of sft"),
    Part(DPO, "DPOTrainer._prepare_dataset", "training/finetuning/trainers.py", "dpo on examples encoded by us"),
    Part(
        "peft.utils.constants",
        "TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING",
        "modeling/peft_targets.py",
        "adapters without --lora_target_modules",
    ),
    Part(
        "accelerate.state", "GradientState.end_of_dataloader", "training/parallel_trainer.py", "the last of the batches"
    ),
    Part("transformers.generation", "GenerationMixin._prepare_generation_config", "serving/batching.py", "batches"),
    Part("transformers.generation", "GenerationMixin._prepare_special_tokens", "serving/batching.py", "batches"),
    Part("transformers.generation", "GenerationMixin._get_logits_processor", "serving/batching.py", "batches"),
    Part("transformers.generation", "GenerationMixin._supports_logits_to_keep", "serving/batching.py", "batches"),
    Part(
        "torchao.prototype.quantization.int4",
        "PrototypeInt4WeightOnlyConfig",
        "checkpoints/quantization.py",
        "4 bits on a CPU",
    ),
    Part("accelerate", "DataLoaderConfiguration.dispatch_batches", "training/arguments.py", "streams in processes"),
    Part("chromadb", "Collection.configuration_json", "rag/index.py", "the refusal of remote embedding functions"),
    Part("chromadb.config", "Settings.anonymized_telemetry", "rag/index.py", "telemetry that stays off"),
    Part("gradio", "Blocks.has_launched", "scripts/app/page.py", "the refusal of paths of files in the app"),
    Part(
        "sentence_transformers",
        "SentenceTransformerTrainer.add_model_card_callback",
        "rag/embedder/training.py",
        "one model card, which is ours",
    ),
]


def has(module, path: str) -> bool:
    """Whether a module has a part, or a class of it sets the part on its instances."""
    *owners, name = path.split(".")
    owner = module
    for part in owners:
        owner = getattr(owner, part, None)
    if owner is None:
        return False
    if hasattr(owner, name) or name in getattr(owner, "__annotations__", {}):
        return True
    classes = [each for each in inspect.getmro(owner) if each is not object] if inspect.isclass(owner) else []
    return any(re.search(rf"\bself\.{name}\b.* = ", inspect.getsource(each)) for each in classes)


def missing(part: Part) -> str:
    """The line that says what is gone, or nothing."""
    library = part.module.partition(".")[0]
    try:
        there = has(import_module(part.module), part.path)
    except ModuleNotFoundError:
        there = False
    if there:
        return ""
    installed = version("chromadb" if library == "chromadb_rust_bindings" else library)
    return f"{part.module}.{part.path} is gone from {library} {installed}; {part.file} needs it for: {part.purpose}"


@pytest.mark.parametrize("part", PARTS, ids=lambda part: f"{part.path}-{part.file}")
def test_the_library_still_has_the_part(part):
    pytest.importorskip(part.module.partition(".")[0])
    assert not (line := missing(part)), line


@pytest.mark.parametrize("part", PARTS, ids=lambda part: f"{part.path}-{part.file}")
def test_our_file_still_uses_the_part(part):
    name = part.path.rpartition(".")[2]
    if part.module == "peft.utils.constants":
        name = name.partition("LORA")[0]  # the file enters our model type into all tables with this prefix
    assert re.search(rf"\b{name}", (ROOT / part.file).read_text(encoding="utf-8")), f"take it off the list: {part}"


def test_a_part_that_is_gone_is_told_in_one_line():
    line = missing(Part(TRAINER, "Trainer._gone", "training/trainer.py", "checkpoints"))
    assert line == (
        f"transformers.trainer.Trainer._gone is gone from transformers {version('transformers')}; "
        "training/trainer.py needs it for: checkpoints"
    )
    assert "transformers.gone.x is gone" in missing(Part("transformers.gone", "x", "training/trainer.py", "all"))


def test_the_list_names_every_private_name_that_the_trainers_override_or_read():
    listed = {part.path.rpartition(".")[2] for part in PARTS}
    pattern = re.compile(r"(?:super\(\)|\btrainer|\btrl_utils)\.(_[a-z]\w*|_[A-Z]\w*)")
    for folder in ("training", "modeling", "rag", "scripts", "serving", "checkpoints", "evaluation"):
        for file in (ROOT / folder).rglob("*.py"):
            used = set(pattern.findall(file.read_text(encoding="utf-8")))
            assert used <= listed, f"{file.relative_to(ROOT)} uses parts that are not on the list: {used - listed}"
