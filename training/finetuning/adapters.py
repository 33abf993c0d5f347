"""Adapters: PEFT's methods with defaults that suit them, and a base in 8 bits."""

import warnings

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from ...checkpoints.prompt_cache import pass_cache_by_old_name
from ...data.arguments import LOADED_FOR
from ...jobs.errors import first_line
from ...jobs.extras import extra
from ...tokenization.special_tokens import special_tokens
from .arguments import PROMPTS, MethodArguments

CONFIGS = {  # method: the class in PEFT
    "lora": "LoraConfig", "dora": "LoraConfig", "ia3": "IA3Config", "vera": "VeraConfig", "oft": "OFTConfig",
    "prompt": "PromptTuningConfig", "prefix": "PrefixTuningConfig",
}  # fmt: skip
TARGETED = ("lora", "dora", "vera", "oft")  # methods that adapt the modules that are named
HEADS = {"score", "classifier", "pre_classifier", "qa_outputs"}  # as models name them


def add_adapter(model: PreTrainedModel, task: str, method: MethodArguments, tokens: list[int] | None = None):
    """Put a new adapter on a model, freeze all other weights, and return the `peft.PeftModel`.

    A new head is trained and saved in full. The embeddings of `tokens` are trained, too, if the method allows it; those
    shared with the head stay shared. Raises ImportError without PEFT, ValueError for modules that cannot be adapted.
    """
    with extra("finetune", "An adapter"):
        import peft
    kind = {"lm": "CAUSAL_LM", "classify": "SEQ_CLS", "tag": "TOKEN_CLS", "qa": "QUESTION_ANS"}[LOADED_FOR[task]]
    targets = method.lora_target_modules
    if targets != ["all-linear"]:
        _check_targets(model, task, method.method, targets)
    elif kind == "CAUSAL_LM":
        targets = "all-linear"
    else:  # a head is trained in full
        names = {name.split(".")[-1] for name, layer in model.named_modules() if isinstance(layer, (nn.Linear, Conv1D))}
        targets = sorted(names - HEADS)
    name, options = method.method, {"task_type": kind}
    if name in PROMPTS:
        options["num_virtual_tokens"] = method.num_virtual_tokens
    else:  # PEFT saves heads by itself, and not the pooler of an encoder that was trained without one
        options["modules_to_save"] = [each for each, _ in model.base_model.named_children() if each == "pooler"] or None
    if name in TARGETED:  # which modules ia3 scales, PEFT's tables say
        options["target_modules"] = targets
    if name in ("lora", "dora"):
        options |= {"r": method.lora_r, "lora_alpha": method.lora_alpha, "lora_dropout": method.lora_dropout}
        trained = _by_module(model, tokens, method.lora_target_modules) if tokens else None
        options |= {"use_dora": name == "dora", "trainable_token_indices": trained}
    config = getattr(peft, CONFIGS[name])(**options)
    try:
        with warnings.catch_warnings(action="ignore"):  # about tied embeddings, which merging handles
            adapted = peft.get_peft_model(model, config)
    except (TypeError, ValueError) as error:
        kind = model.config.model_type
        raise ValueError(f"{name} cannot adapt {kind} ({first_line(error)}): use --method lora.") from None
    pass_cache_by_old_name(adapted)
    head = adapted.get_output_embeddings()
    if head is not None and not hasattr(head, "bias"):
        head.bias = None  # TRL reads it, and PEFT's wrapper around trained tokens has the weight alone
    return adapted


def _check_targets(model: PreTrainedModel, task: str, method: str, targets: list[str]) -> None:
    """Raise ValueError for targets that PEFT would skip, and heads: TRL computes losses from their weights alone."""
    if method not in TARGETED:
        raise ValueError(f"lora_target_modules is for {', '.join(TARGETED)}: leave it out with --method {method}.")
    head, kinds = model.get_output_embeddings(), (nn.Linear, nn.Embedding, Conv1D)
    layers = [name for name, layer in model.named_modules() if isinstance(layer, kinds) and layer is not head]
    names = ", ".join(sorted({name.split(".")[-1] for name in layers} - HEADS))
    for target in targets:
        if target in HEADS or not any(_is_target(name, [target]) for name in layers):
            raise ValueError(f"lora_target_modules has {target}, which {task} cannot adapt: choose among {names}.")


def _is_target(name: str, targets: list[str]) -> bool:
    return any(f".{name}".endswith(f".{target}") for target in targets)


def _by_module(model: PreTrainedModel, tokens: list[int], targets: list[str]) -> dict[str, list[int]]:
    """Return the tokens for the embeddings, unless an adapter learns these, and for a head with weights of its own."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {id(module): name for name, module in model.named_modules()}
    if _is_target(names[id(embeddings)], targets):
        own = [head]
    else:
        own = [embeddings] if head is None or head.weight is embeddings.weight else [embeddings, head]
    return {names[id(module)].split(".")[-1]: tokens for module in own}


def turn_tokens(base: PreTrainedTokenizerBase, chat: PreTrainedTokenizerBase) -> list[int]:
    """Return ids of the template's special tokens if the base model has another end token: it must learn them."""
    if base.eos_token == chat.eos_token:
        return []
    return chat.convert_tokens_to_ids([token for token in special_tokens(chat) if token in str(chat.chat_template)])
