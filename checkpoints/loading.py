"""Loading what the user named with --model: a checkpoint, or an adapter and the model that it belongs to."""

import json
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import cached_file

from .. import modeling  # noqa: F401  makes our checkpoints load without remote code
from ..jobs.extras import extra
from ..tokenization import vocabulary_size
from .adapter_merging import MergeError, merged
from .base_record import BASE_FILE, BaseRecord, hash_weights
from .no_checkpoint import ADAPTER_CONFIG, ADAPTER_WEIGHTS, explain
from .prompt_cache import pass_cache_by_old_name
from .weight_files import INDEX, WEIGHTS

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
# What an adapter may store of embeddings or a head, and which dimension of it is the vocabulary's.
HAS_ROWS = {"lora_embedding_A": 1, "lora_B.weight": 0, "weight": 0, "base_layer.weight": 0}
LAYERS = re.compile(r"(num|n)_(hidden_|encoder_|decoder_)?layers?|(en|de)coder_layers")
MOST_LABELS = 10**6
SECONDS_TO_REACH = 10  # the Hub
PEFT_TASKS = {"CAUSAL_LM": "lm", "SEQ_CLS": "classify", "TOKEN_CLS": "tag", "QUESTION_ANS": "qa"}


def load_model(
    name: str, task: str = "lm", trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model and tokenizer that `name` stands for, on this machine's accelerator if it has one.

    `name` is a directory or Hub name, `task` one of `TASKS`. An adapter is merged with its base model, which is faster,
    unless the merged model would compute something else. `trust_remote_code` runs the code in a checkpoint.

    Raises OSError without a complete checkpoint or adapter; ValueError if it is one for another task, or its base has
    other weights than when it was trained; ImportError if it is an adapter and PEFT is missing.
    """
    transformers.logging.set_verbosity_error()
    source = os.path.expanduser(name)
    folder = adapter_folder(source)
    if folder is not None:
        try:
            model, tokenizer = load_adapter(name, folder, task, trust_remote_code)
        except MergeError:
            model, tokenizer = load_adapter(name, folder, task, trust_remote_code, merge=False)
    else:
        model, missing = load_checkpoint(name, task, trust_remote_code)
        if missing:
            raise ValueError(f"{name} is no {TASKS[task][1]}: name one that is.")
        tokenizer = load_tokenizer_of(name, source, trust_remote_code)
    if torch.accelerator.is_available():
        model = model.to(torch.accelerator.current_accelerator())
    return model.eval(), tokenizer


def task_of(name: str, trust_remote_code: bool = False) -> str:
    """Read the task of a model from the files of a checkpoint or adapter; raises OSError for neither."""
    source = os.path.expanduser(name)
    folder = adapter_folder(source)
    with one_line(name):
        if folder is None:
            config = load_config(source, trust_remote_code)
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
    """Return a checkpoint's model for `task`, and the names of weights it lacks; raises OSError, ValueError."""
    auto_class, source = getattr(transformers, TASKS[task][0]), os.path.expanduser(name)
    with one_line(name):
        config = load_config(source, trust_remote_code)
    if task == "lm" and not _continues_text(config):
        kind = (config.architectures or [config.model_type])[0]
        raise ValueError(f"{name} is a {kind}, and no {TASKS[task][1]}: name one that is.")
    options = {"trust_remote_code": trust_remote_code, "use_safetensors": True, "output_loading_info": True, **fields}
    with one_line(name):
        model, info = auto_class.from_pretrained(source, **options)
        stack = f"{model.base_model_prefix}."
        if {key for key, _ in model.named_parameters() if key.startswith(stack)} <= info["missing_keys"]:
            # Stock Llama's class for answers names its stack otherwise than the other classes.
            model, info = auto_class.from_pretrained(source, key_mapping={r"^model\.": stack}, **options)
    missing = sorted(info["missing_keys"])
    if missing and task == "lm":
        raise ValueError(f"{name} is no {TASKS[task][1]}: it has no {missing[0]}. Name one that is.")
    return model, missing


def load_config(source: str, trust_remote_code: bool = False) -> transformers.PreTrainedConfig:
    """Load a checkpoint's config; raises ValueError, before anything is made by its numbers, as `check_counts` does."""
    written, _ = transformers.PreTrainedConfig.get_config_dict(source)
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    if file := cached_file(source, WEIGHTS, **quiet):
        with safe_open(file, framework="pt") as weights:
            check_counts(written, len(weights.keys()), source)
    elif file := cached_file(source, INDEX, **quiet):
        check_counts(written, len(json.loads(Path(file).read_text(encoding="utf-8"))["weight_map"]), source)
    return AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)


def check_counts(written: dict, tensors: int, where: str | Path) -> None:
    """Reject more layers than a checkpoint has tensors, and a billion labels: making them would take all memory."""
    parts = [written]
    for part in parts:
        parts += (value for value in part.values() if isinstance(value, dict))
        for name, value in part.items():
            most = tensors if LAYERS.fullmatch(name) else MOST_LABELS if name == "num_labels" else value
            if isinstance(value, int) and value > most:
                what = f"{value} {name.rpartition('_')[2]} of {name} in its config.json"
                raise ValueError(f"{where} has {tensors} tensors, so not the {what}: get both from one model.")


def context_length(model: PreTrainedModel) -> int | None:
    """Count the tokens that a model reads at once, less an adapter's virtual ones; None if there is no end."""
    config, adapter = model.config.get_text_config(), getattr(model, "active_peft_config", None)
    own = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    return own and own - (adapter.num_virtual_tokens if adapter and adapter.is_prompt_learning else 0)


def load_tokenizer_of(name: str, source: str | Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer next to a model."""
    with one_line(name):
        return AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)


@contextmanager
def one_line(name: str) -> Iterator[None]:
    """Turn whatever the block raises into an OSError about `name`: files of others can raise anything."""
    try:
        yield
    except Exception as error:
        raise OSError(explain(name, error)) from None


def _continues_text(config) -> bool:
    """Return True for a causal language model; if the head is tied to the embeddings, no weight tells."""
    kind = (config.architectures or [""])[0]
    if kind.endswith(("CausalLM", "LMHeadModel")):
        return getattr(config, "is_causal", True) is not False
    heads = tuple(auto_class.removeprefix("AutoModel") for auto_class, _ in TASKS.values())
    is_encoder = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_causal", False)
    return not (kind.endswith(heads) or is_encoder or getattr(config, "is_encoder_decoder", False))


def adapter_folder(source: str) -> Path | None:
    """Return the folder of an adapter's files, or None if the name is no adapter's."""
    if os.path.isdir(source):
        return Path(source) if os.path.isfile(os.path.join(source, ADAPTER_CONFIG)) else None
    check_name(source)
    try:
        files = [cached_file(source, file, _raise_exceptions_for_missing_entries=False) for file in ADAPTER_FILES]
    except (OSError, ValueError):  # no name on the Hub, or not within reach: loading it as a checkpoint says so
        return None
    return Path(files[0]).parent if files[0] else None


def check_name(source: str) -> None:
    """Raise OSError for what is neither a path nor a name on the Hub, or if the Hub cannot be reached.

    It asks once: without a network, the retries for each file would take minutes.
    """
    if os.path.exists(source):
        return
    if "/" not in source:
        raise FileNotFoundError(explain(source, ValueError("names there have an owner: owner/name")))
    try:
        HfApi().model_info(source, timeout=SECONDS_TO_REACH)
    except (HfHubHTTPError, OSError, ValueError):
        pass  # it has answered, or is known to be out of reach, or that is no name
    except Exception as error:  # of the HTTP library, which huggingface_hub has changed before
        if not isinstance(try_to_load_from_cache(source, "config.json"), str):
            raise OSError(explain(source, error)) from None


def load_adapter(name: str, folder: Path, task: str, trust_remote_code: bool = False, merge: bool = True):
    """Load an adapter as `load_model` does, with its errors; MergeError if the merged model computes other values."""
    with extra("finetune", f"{name} is an adapter, which"):
        from peft import PeftConfig, PeftModel
    record = BaseRecord.load(folder)
    with one_line(name):
        config = PeftConfig.from_pretrained(str(folder))
        base_name = str(config.base_model_name_or_path)
        with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as weights:
            shapes = {stored: weights.get_slice(stored).get_shape() for stored in weights.keys()}  # noqa: SIM118
    made_for = record.task if record else PEFT_TASKS.get(str(config.task_type), task)
    if made_for != task:
        raise ValueError(f"{name} is an adapter for {made_for}, and no {TASKS[task][1]}: name one that is.")
    if config.is_prompt_learning and merge:
        raise MergeError(f"{config.peft_type.value} has trained vectors before the text, which no weights can hold")
    head = _head_fields(record, shapes) if task in ("classify", "tag") else {}
    try:
        base, missing = load_checkpoint(base_name, task, trust_remote_code, **head)
    except OSError as error:
        remedy = f"Put it there, or write where it is as base_model_name_or_path in the adapter's {ADAPTER_CONFIG}"
        raise OSError(f"The base model of the adapter {name} is missing: {str(error).rstrip('.')}. {remedy}.") from None
    if record is not None and hash_weights(base, missing) != record.weights_hash:
        raise ValueError(
            f"{base_name} has other weights than the model that the adapter {name} was trained on: put that model "
            f"there again, or write where it is as base_model_name_or_path in {folder / ADAPTER_CONFIG}."
        )
    if lost := [weight for weight in missing if not any(stored.endswith(weight) for stored in shapes)]:
        raise ValueError(f"{name} is no {TASKS[task][1]}: neither it nor its base has {lost[0]}. Name one that is.")
    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    tokenizer = load_tokenizer_of(name, folder if has_tokenizer else os.path.expanduser(base_name), trust_remote_code)
    fit_embeddings(base, tokenizer, _stored_rows(base, shapes))
    base.config.pad_token_id = tokenizer.pad_token_id  # by which classifiers find where a text of a batch ends
    with one_line(name), warnings.catch_warnings(action="ignore"):  # of tied embeddings, which `merged` sees to
        model = PeftModel.from_pretrained(base, str(folder), config=config)
    if spans := getattr(config, "layer_replication", None):  # of which PEFT changes the number alone
        types = getattr(base.config, "layer_types", None)
        base.config.layer_types = types and [kind for start, end in spans for kind in types[start:end]]
    pass_cache_by_old_name(model)
    if merge:
        model = merged(model, name)
    if (folder / "generation_config.json").is_file():
        with one_line(name):
            model.generation_config = GenerationConfig.from_pretrained(folder)
    return model, tokenizer


def _head_fields(record: BaseRecord | None, shapes: dict[str, list[int]]) -> dict[str, Any]:
    """Return the fields of the config for the head that an adapter was trained with."""
    if record is not None:
        kind = {"problem_type": "single_label_classification"} if record.task == "classify" else {}
        return {"id2label": record.id2label, **kind} if record.id2label else {}
    rows = [shape[0] for name, shape in shapes.items() if name.endswith((".score.weight", ".classifier.weight"))]
    return {"num_labels": rows[0]} if rows else {}


def _stored_rows(base: PreTrainedModel, shapes: dict[str, list[int]]) -> int | None:
    """Return the rows of the embeddings that an adapter was trained over, if its weights show them."""
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    for end in [name for name, module in base.named_modules() if module in ends]:
        for name, shape in shapes.items():
            part = name.partition(f".{end}.")[2].removeprefix("token_adapter.")
            if part in HAS_ROWS:
                return shape[HAS_ROWS[part]]
    return None


@torch.no_grad()
def fit_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: int | None = None) -> bool:
    """Give the model a row for each token that the tokenizer has more, and return True if there were any.

    New rows are the mean of the others (Hewitt, 2021), so that every process makes the same ones. An adapter may have
    been trained over padded, or fewer, `rows`: then there are that many.
    """
    old = model.get_input_embeddings().num_embeddings
    new = rows or max(old, vocabulary_size(tokenizer))
    if new == old:
        return False
    model.resize_token_embeddings(new, mean_resizing=False)
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        if module is not None and new > old:
            weight: torch.Tensor = module.weight
            weight[old:] = weight[:old].mean(dim=0)
    return True
