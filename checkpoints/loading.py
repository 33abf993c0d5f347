"""Loading what the user named with --model: a checkpoint, or an adapter and the model that it belongs to."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from .. import modeling  # noqa: F401  makes our checkpoints load without remote code
from ..jobs.errors import first_line
from ..jobs.extras import extra
from ..tokenization import vocabulary_size
from .base_record import BASE_FILE, BaseRecord, hash_weights

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ADAPTER_FILES = (  # of an adapter on the Hub; the first ones it must have
    ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE_FILE, "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
)  # fmt: skip
TASKS = {  # task: (the class, what a model without such a head is not)
    "lm": ("AutoModelForCausalLM", "causal language model, which could continue text"),
    "classify": ("AutoModelForSequenceClassification", "classifier of texts"),
    "tag": ("AutoModelForTokenClassification", "classifier of words"),
    "qa": ("AutoModelForQuestionAnswering", "model that finds answers in texts"),
}
PEFT_TASKS = {"SEQ_CLS": "classify", "TOKEN_CLS": "tag", "QUESTION_ANS": "qa"}


def load_model(
    name: str, task: str = "lm", trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and tokenizer that `name` stands for, on this machine's accelerator if it has one.

    An adapter is put on its base model and, where its method allows, merged with it: the same function, and faster.

    Args:
        name: the directory or Hub name of a checkpoint or of an adapter.
        task: "lm" to continue text, "classify" for labels of texts, "tag" for labels of words, "qa" for answers in a
            text.
        trust_remote_code: run the code in the checkpoint; not needed for ours.

    Raises:
        OSError: if there is no whole checkpoint or adapter; the message says why.
        ValueError: if it is one for another task, or the adapter's base has other weights than when it was trained.
        ImportError: if it is an adapter and PEFT is missing; names the extra that has it.
    """
    transformers.logging.set_verbosity_error()
    source = os.path.expanduser(name)
    folder = _adapter_folder(source)
    if folder is not None:
        model, tokenizer = _load_adapter(name, folder, task, trust_remote_code)
    else:
        model, missing = load_checkpoint(name, task, trust_remote_code)
        if missing or (task == "lm" and not _continues_text(model.config)):
            raise ValueError(f"{name} is no {TASKS[task][1]}: name one that is.")
        tokenizer = load_tokenizer_of(name, source, trust_remote_code)
    if torch.accelerator.is_available():
        model = model.to(torch.accelerator.current_accelerator())
    return model.eval(), tokenizer


def task_of(name: str, trust_remote_code: bool = False) -> str:
    """The task that `load_model` should load a checkpoint or an adapter for, by what its files say.

    Raises:
        OSError: if there is none.
    """
    source = os.path.expanduser(name)
    folder = _adapter_folder(source)
    with one_line(name):
        if folder is None:
            config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
            heads = {auto_class.removeprefix("AutoModel"): task for task, (auto_class, _) in TASKS.items()}
            written = config.architectures or [""]
            return next((task for head, task in heads.items() if written[0].endswith(head)), "lm")
        if record := BaseRecord.load(folder):
            return record.task
        kind = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("task_type")
        return PEFT_TASKS.get(kind, "lm")


def load_checkpoint(
    name: str, task: str, trust_remote_code: bool = False, **fields: Any
) -> tuple[PreTrainedModel, list[str]]:
    """A checkpoint's model with the head for `task`, and the names of weights that were not in it.

    Args:
        fields: of the config, for instance `num_labels` of a head that is new.
    """
    auto_class = getattr(transformers, TASKS[task][0])
    with one_line(name):
        model, info = auto_class.from_pretrained(
            os.path.expanduser(name),
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            **fields,
        )
    return model, sorted(info["missing_keys"])


def context_length(model: PreTrainedModel) -> int | None:
    """Count the tokens that a model reads at once, less the virtual tokens of an active prompt adapter.

    Returns:
        None if there is no end, as with relative positions.
    """
    config, adapter = model.config.get_text_config(), getattr(model, "active_peft_config", None)
    own = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    return own and own - (adapter.num_virtual_tokens if adapter and adapter.is_prompt_learning else 0)


def load_tokenizer_of(name: str, source: str | Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model."""
    with one_line(name):
        return AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)


@contextmanager
def one_line(name: str) -> Iterator[None]:
    """Say of whatever goes wrong in the block that `name` is no checkpoint: what files of others raise has no end."""
    try:
        yield
    except Exception as error:
        raise OSError(
            f"{name} is not a whole checkpoint's directory, nor a model on the Hub within reach ({first_line(error)})"
        ) from None


def _continues_text(config) -> bool:
    """Whether a checkpoint is a causal language model; where the head is tied to the embeddings, no weight tells."""
    heads = [auto_class.removeprefix("AutoModel") for task, (auto_class, _) in TASKS.items() if task != "lm"]
    for_another_task = any(name.endswith(head) for name in config.architectures or () for head in heads)
    return getattr(config, "is_causal", True) is not False and not for_another_task


def _adapter_folder(source: str) -> Path | None:
    """Where the files of the adapter are that is named, or None if it is none."""
    if os.path.isdir(source):
        return Path(source) if os.path.isfile(os.path.join(source, ADAPTER_CONFIG)) else None
    try:
        files = [cached_file(source, file, _raise_exceptions_for_missing_entries=False) for file in ADAPTER_FILES]
    except (OSError, ValueError):  # no name on the Hub, or not within reach: loading it as a checkpoint says so
        return None
    return Path(files[0]).parent if files[0] else None


def _load_adapter(name: str, folder: Path, task: str, trust_remote_code: bool):
    with extra("finetune", f"{name} is an adapter, which"):
        from peft import PeftConfig, PeftModel
    record = BaseRecord.load(folder)
    if record is not None and record.task != task:
        raise ValueError(f"{name} is an adapter for {record.task}, and no {TASKS[task][1]}: name one that is.")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise FileNotFoundError(f"{name} is not a whole adapter: it has no {ADAPTER_WEIGHTS}.")
    with one_line(name):
        config = PeftConfig.from_pretrained(str(folder))
        base_name = str(config.base_model_name_or_path)
    labels = {"id2label": record.id2label, "problem_type": record.problem_type} if record and record.id2label else {}
    base, missing = _load_base(name, base_name, task, trust_remote_code, labels)
    if record is not None and hash_weights(base, missing) != record.weights_hash:
        raise ValueError(
            f"{base_name} has other weights than the model that the adapter {name} was trained on: put that model "
            f"there again, or write where it is as base_model_name_or_path in {folder / ADAPTER_CONFIG}."
        )
    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    tokenizer = load_tokenizer_of(name, folder if has_tokenizer else os.path.expanduser(base_name), trust_remote_code)
    fit_embeddings(base, tokenizer)
    with one_line(name):
        model = PeftModel.from_pretrained(base, str(folder), config=config)
        if hasattr(model.base_model, "merge_and_unload"):
            model = model.base_model.merge_and_unload()
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder)
    return model, tokenizer


def _load_base(name: str, base_name: str, task: str, trust_remote_code: bool, labels: dict):
    try:
        return load_checkpoint(base_name, task, trust_remote_code, **labels)
    except OSError as error:
        raise OSError(
            f"The base model of the adapter {name} is missing: {error}. Put it there, or write where it is as "
            f"base_model_name_or_path in the adapter's {ADAPTER_CONFIG}."
        ) from None


@torch.no_grad()
def fit_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Give the model a row for each token that the tokenizer has more, and say whether there were any.

    New rows are the mean of the others (Hewitt, 2021), so that every process makes the same ones.
    """
    old, new = model.get_input_embeddings().num_embeddings, vocabulary_size(tokenizer)
    if new <= old:
        return False
    model.resize_token_embeddings(new, mean_resizing=False)
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        if module is not None:
            weight: torch.Tensor = module.weight
            weight[old:] = weight[:old].mean(dim=0)
    return True
