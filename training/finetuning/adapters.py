"""Adapters: PEFT's methods with defaults that suit them, and a base in 8 bits."""

import warnings

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from ...checkpoints.prompt_cache import pass_cache_by_old_name
from ...data.arguments import LOADED_FOR
from ...jobs.errors import first_line
from ...jobs.extras import extra
from ...tokenization.control_tokens import control_tokens
from .arguments import PROMPTS, MethodArguments

CONFIGS = {  # method: the class in PEFT
    "lora": "LoraConfig", "dora": "LoraConfig", "ia3": "IA3Config", "vera": "VeraConfig", "oft": "OFTConfig",
    "prompt": "PromptTuningConfig", "prefix": "PrefixTuningConfig",
}  # fmt: skip
TARGETED = ("lora", "dora", "vera", "oft")  # methods that adapt the modules that are named
HEADS = {"score", "classifier", "pre_classifier", "qa_outputs"}  # as models name them


def add_adapter(model: PreTrainedModel, task: str, method: MethodArguments, tokens: list[int] | None = None):
    """Put a new adapter on a model, of which nothing else is trained any more; returns a `peft.PeftModel`.

    A head that is new is trained and saved whole. The embeddings of `tokens` are trained, too, where the method allows;
    shared with the head, they stay shared.

    Raises ImportError if PEFT is missing, ValueError for modules that the method cannot adapt.
    """
    with extra("finetune", "An adapter"):
        import peft
    kind = {"lm": "CAUSAL_LM", "classify": "SEQ_CLS", "tag": "TOKEN_CLS", "qa": "QUESTION_ANS"}[LOADED_FOR[task]]
    targets = method.lora_target_modules
    if targets != ["all-linear"]:
        _check_targets(model, task, method.method, targets)
    elif kind == "CAUSAL_LM":
        targets = "all-linear"
    else:  # a head is trained whole
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
        with warnings.catch_warnings(action="ignore"):  # of tied embeddings, which are seen to when it is merged
            adapted = peft.get_peft_model(model, config)
    except (TypeError, ValueError) as error:
        kind = model.config.model_type
        raise ValueError(f"{name} cannot adapt {kind} ({first_line(error)}): use --method lora.") from None
    pass_cache_by_old_name(adapted)
    head = adapted.get_output_embeddings()
    if head is not None and not hasattr(head, "bias"):
        head.bias = None  # TRL asks for it, and PEFT's wrapper around trained tokens passes on the weight alone
    return adapted


def _check_targets(model: PreTrainedModel, task: str, method: str, targets: list[str]) -> None:
    """Refuse targets that PEFT would pass over, and heads: TRL computes the loss of text from their weights alone."""
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
    """The tokens for the embeddings, unless an adapter on these learns them, and for a head of its own weights."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {id(module): name for name, module in model.named_modules()}
    if _is_target(names[id(embeddings)], targets):
        own = [head]
    else:
        own = [embeddings] if head is None or head.weight is embeddings.weight else [embeddings, head]
    return {names[id(module)].split(".")[-1]: tokens for module in own}


def turn_tokens(base: PreTrainedTokenizerBase, chat: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the template's control tokens, if the base model has ended no turns yet: it has still to learn them."""
    if base.eos_token == chat.eos_token:
        return []
    template = str(chat.chat_template)
    return chat.convert_tokens_to_ids([token for token in control_tokens(chat) if token in template])


def quantize(model: PreTrainedModel) -> None:
    """Hold the stack's weight matrices in 8 bits, one scale a row; raises ImportError if torchao is missing."""
    with extra("quantization", "A base in 8 bits"):
        from torchao.quantization import Int8WeightOnlyConfig, quantize_  # pyright: ignore[reportMissingImports]
    inside = f"{model.base_model_prefix}."
    quantize_(model, Int8WeightOnlyConfig(), lambda m, name: isinstance(m, nn.Linear) and name.startswith(inside))


@torch.no_grad()
def keeps_documents_apart(model: PreTrainedModel) -> bool:
    """Whether the tokens of a document are blind to another one before it in the row, told by the positions alone."""
    was_training = model.training
    model.eval()
    ids = torch.arange(3, 11, device=model.device)[None] % model.config.vocab_size
    other = torch.cat([ids[:, :4].flip(1), ids[:, 4:]], dim=1)
    positions = torch.arange(4, device=model.device).repeat(2)[None]
    first, second = (model(x, position_ids=positions, use_cache=False).logits[:, 4:] for x in (ids, other))
    model.train(was_training)
    return torch.allclose(first, second, atol=1e-4)
