"""The model that a pretraining run begins with: from settings, from a config, or the caller's own."""

import copy
import logging
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from ..checkpoints.loading import check_name, load_checkpoint, load_config, one_line
from ..checkpoints.self_check import relative_difference
from ..jobs.errors import first_line
from ..modeling import FolioForCausalLM, preset_config
from ..tokenization import load_tokenizer, vocabulary_size
from .arguments import ModelArguments, PretrainingArguments
from .config_fields import DROPOUTS, chosen_fields

LOSS_CHUNK = 512  # tokens whose logits are in memory at once
LONGEST_BLOCK = 1024  # tokens in an example of a model that exists already, if --block_size is not given

logger = logging.getLogger(__name__)


def token_ids(tokenizer: Tokenizer) -> dict[str, int | None]:
    """Return the ids of a tokenizer's special tokens under their names in configs."""
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}


def usual_block(config: PreTrainedConfig) -> int:
    """Return the tokens in an example of a model that exists already: its context, up to a limit."""
    return min(getattr(config, "max_position_embeddings", None) or LONGEST_BLOCK, LONGEST_BLOCK)


def starting_config(model: ModelArguments, checkpoint: Path | None = None) -> PreTrainedConfig:
    """Return the config of the settings, or of a run's checkpoint; raises ValueError, OSError if they do not fit."""
    source = str(checkpoint or model.init_from or model.model_config or f"preset {model.preset}")
    if checkpoint is None and model.init_from is None:
        fields = {"max_position_embeddings": model.block_size, **chosen_fields(model)}
        is_ours = model.model_config is None
        config = preset_config(model.preset, model.size, **fields) if is_ours else config_of_file(model)
    else:
        check_name(source)
        with one_line(source):
            config = load_config(source, model.trust_remote_code)
        if model.block_size is None:
            model.block_size, context = usual_block(config), getattr(config, "max_position_embeddings", None)
            if context and context > model.block_size:
                blocks = f"it is trained on blocks of {model.block_size}: choose others with --block_size"
                logger.warning("%s reads %d tokens at once; %s.", source, context, blocks)
        if checkpoint is None:
            prepare_to_continue(config, model)
    for name, value in chosen_fields(model, config).items():
        got = getattr(config, name)
        if got != value and not (isinstance(got, dict) and value.items() <= got.items()):
            raise ValueError(f"{name} is {value}, and with {source} it is {got}: leave it out.")
    return config


def config_of_file(model: ModelArguments) -> PreTrainedConfig:
    """Return the config that --model_config names, with the given fields."""
    name, trust = model.model_config, model.trust_remote_code
    check_name(name)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust)
        if config.get_text_config() is not config:
            raise ValueError("its model takes more than text; give a file with its text_config alone")
        fields = chosen_fields(model, config)
        if getattr(config, "max_position_embeddings", None):
            fields["max_position_embeddings"] = model.block_size
        written, _ = PreTrainedConfig.get_config_dict(name)
        written.pop("quantization_config", None)  # fresh weights are not quantized
        if "num_hidden_layers" in fields and len(set(written.get("layer_types") or ())) == 1:
            del written["layer_types"]
        written |= {config.attribute_map.get(field, field): value for field, value in fields.items()}
        found = type(config).from_dict(written)
        found.name_or_path = config.name_or_path  # where its code is, if it has any
        with torch.device("meta"):
            AutoModelForCausalLM.from_config(copy.deepcopy(found), trust_remote_code=trust)
    except Exception as error:  # transformers raises errors of all kinds for damaged or unknown files
        remedy = ", or give --trust_remote_code if you trust it" if "trust_remote_code" in str(error) else ""
        raise ValueError(f"No model can be made of {name}: {first_line(error.__cause__ or error)}{remedy}.") from None
    return found


def prepare_to_continue(config: PreTrainedConfig, model: ModelArguments) -> None:
    """Set the fields that the weights of --init_from leave open, and more positions if its architecture allows it."""
    name, fields = model.init_from, chosen_fields(model, config)
    if fixed := [field for field in fields if field not in DROPOUTS]:
        raise ValueError(f"{fixed[0]} is given, but the weights of {name} determine it: leave it out.")
    config.update(fields)
    positions = getattr(config, "max_position_embeddings", None) or model.block_size
    if model.block_size > positions:
        others = "rope" if getattr(config, "rope_parameters", None) else "learned"
        if getattr(config, "position_embedding_type", others) == "learned":
            raise ValueError(f"{name} has learned {positions} positions: use --block_size {positions} or less.")
        config.max_position_embeddings = model.block_size
    if model.tokenizer is not None:
        vocabulary = load_tokenizer(name).get_vocab()
        if model.tokenizer == "char" or load_tokenizer(model.tokenizer).get_vocab() != vocabulary:
            raise ValueError(f"The tokenizer {model.tokenizer} has another vocabulary than {name}: leave it out.")


def configured_model(
    model: ModelArguments | PreTrainedConfig | PreTrainedModel,
    tokenizer: Tokenizer,
    args: PretrainingArguments,
    checkpoint: Path | None = None,
) -> PreTrainedModel:
    """Return the model of a run with the settings of its loss; without the weights of its `checkpoint`."""
    if isinstance(model, ModelArguments):
        network = new_model(model, tokenizer, checkpoint)
    else:  # the caller's; a new one in float32 whatever its dtype
        is_model, ids = isinstance(model, PreTrainedModel), token_ids(tokenizer)
        network = model if is_model else AutoModelForCausalLM.from_config(model, dtype=torch.float32)
        network.config.update(ids)
        network.generation_config.update(**ids)
    tokens, rows = vocabulary_size(tokenizer), network.config.get_text_config().vocab_size
    if tokens > rows:
        raise ValueError(
            f"The tokenizer has {tokens:,} tokens, and the model {rows:,}: make its config with vocab_size={tokens}."
        )
    is_ours = isinstance(network, FolioForCausalLM)
    if args.z_loss and not is_ours:
        raise ValueError(f"z_loss is {args.z_loss}, and {type(network).__name__} has none: leave it out.")
    # Trainer smooths logits, and then needs all of them; the chunked loss needs all of the head's weights.
    if is_ours and args.label_smoothing_factor == 0 and not args.fsdp:
        network.loss_chunk_size, network.z_loss = LOSS_CHUNK, args.z_loss
    if args.activation_checkpointing:  # for the steps that are timed before Trainer is there
        network.activation_checkpointing_enable()
    return network


def new_model(model: ModelArguments, tokenizer: Tokenizer, checkpoint: Path | None) -> PreTrainedModel:
    """Return the model of the settings for this tokenizer, with the generation settings that it will be saved with."""
    config, ids, trust = starting_config(model, checkpoint), token_ids(tokenizer), model.trust_remote_code
    if model.init_from is not None and checkpoint is None:
        # In float32, whatever the checkpoint is in: small steps would be lost in the rounding of bfloat16.
        return load_checkpoint(model.init_from, "lm", trust, **{"config": config, "dtype": torch.float32})[0]
    if checkpoint is None:
        config.update({"vocab_size": vocabulary_size(tokenizer), **ids})
    network = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=trust)
    network.generation_config.update(do_sample=True, temperature=0.8, top_p=0.95, **ids)
    if model.init_from is not None:
        network.generation_config = GenerationConfig.from_pretrained(checkpoint)
    if model.model_config is not None:
        kind, (is_causal, is_apart) = type(network).__name__, probe_attention(network)
        if not is_causal:
            what = "attends to the tokens that it has to predict"
            raise ValueError(f"{kind} {what}: give a causal model (is_decoder of BERT).")
        if not is_apart:
            logger.warning("%s does not keep the documents of a block apart: each attends to those before it.", kind)
    return network


@torch.no_grad()
def probe_attention(network: PreTrainedModel) -> tuple[bool, bool]:
    """Return whether no token sees later ones, and whether no document of a block sees another, by positions alone."""
    was_training, device = network.training, network.device
    ids = (torch.arange(8, device=device) % network.config.vocab_size).repeat(3, 1)
    ids[1, 0] = ids[2, 7] = 2
    two_documents = torch.arange(8, device=device).repeat(3, 1) % 4
    plain, first, last = network.eval()(input_ids=ids, position_ids=two_documents, use_cache=False).logits
    network.train(was_training)
    return relative_difference(last[:7], plain[:7]) < 1e-5, relative_difference(first[4:], plain[4:]) < 1e-5
