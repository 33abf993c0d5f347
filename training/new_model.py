"""The model that a pretraining run begins with: of a preset and size, of a config, or one that the caller brings."""

from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..modeling import FolioForCausalLM, preset_config
from ..tokenization import vocabulary_size
from .arguments import ModelArguments, PretrainingArguments

LOSS_CHUNK = 512  # tokens whose logits are in memory at once
LONGEST_BLOCK = 1024  # tokens in an example of a model that the caller brings, if nothing else is asked for


def token_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    """The ids of a tokenizer's special tokens under the names that configs have for them."""
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}


def arguments_of_own(
    model: PreTrainedConfig | PreTrainedModel, tokenizer: str | None, block_size: int | None
) -> ModelArguments:
    """The settings of a model that the caller brings, for the run's files and its tokenizer."""
    config = getattr(model, "config", model).get_text_config()
    block_size = block_size or min(getattr(config, "max_position_embeddings", None) or LONGEST_BLOCK, LONGEST_BLOCK)
    return ModelArguments(tokenizer, config.vocab_size, preset=config.model_type, size="custom", block_size=block_size)


def own_model(model: PreTrainedConfig | PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The caller's model, or a fresh one of the config; raises ValueError if it lacks rows for some tokens."""
    network = model if isinstance(model, PreTrainedModel) else AutoModelForCausalLM.from_config(model)
    vocab_size = network.config.get_text_config().vocab_size
    if vocabulary_size(tokenizer) > vocab_size:
        raise ValueError(
            f"The tokenizer has {vocabulary_size(tokenizer):,} tokens, and the model {vocab_size:,}: make its config "
            f"with vocab_size={vocabulary_size(tokenizer)}."
        )
    for name, token_id in token_ids(tokenizer).items():
        setattr(network.config, name, token_id)
        setattr(network.generation_config, name, token_id)
    return network


def configured_model(
    model: ModelArguments | PreTrainedConfig | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    args: PretrainingArguments,
) -> PreTrainedModel:
    """The model of a run, which computes its loss as the run wants it."""
    network = new_model(model, tokenizer) if isinstance(model, ModelArguments) else own_model(model, tokenizer)
    is_ours = isinstance(network, FolioForCausalLM)
    if args.z_loss and not is_ours:
        raise ValueError(f"z_loss is {args.z_loss}, and {type(network).__name__} has none: leave it out.")
    # Trainer smooths logits, and then needs all of them; the chunked loss needs all of the head's weights.
    if is_ours and args.label_smoothing_factor == 0 and not args.fsdp:
        network.loss_chunk_size, network.z_loss = LOSS_CHUNK, args.z_loss
    if args.activation_checkpointing:  # for the steps that are timed before Trainer is there
        network.activation_checkpointing_enable()
    return network


def new_model(model: ModelArguments, tokenizer: PreTrainedTokenizerBase) -> FolioForCausalLM:
    """A model with fresh weights for this tokenizer, and the generation settings that it will be saved with."""
    ids = token_ids(tokenizer)
    sizes = {"vocab_size": vocabulary_size(tokenizer), "max_position_embeddings": model.block_size}
    network = FolioForCausalLM(preset_config(model.preset, model.size, **sizes, **ids))
    network.generation_config.update(do_sample=True, temperature=0.8, top_p=0.95, **ids)
    return network
