"""A checkpoint as an embedding model, with means of the last states as vectors, or as a cross-encoder, to train."""

import tempfile
from pathlib import Path
from typing import Any

import transformers
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModel, PreTrainedModel

from ...checkpoints.loading import ADAPTER_CONFIG, context_length, load_checkpoint, load_tokenizer_of, one_line
from ...jobs.extras import extra
from ...modeling import FolioConfig
from ..chunking import CHUNK_TOKENS, CONTEXT_TOKENS
from ..embedding import MINILM, load_embedder, packaged_minilm

MODULES_FILE = "modules.json"  # only a sentence-transformers model has it
MAX_LENGTH = CHUNK_TOKENS + CONTEXT_TOKENS + 6  # tokens of the texts that an index embeds
QUESTION_TOKENS = 64  # that a cross-encoder reads in addition


def load_encoder(name: str, max_length: int | None = None, reranker: bool = False):
    """Load a SentenceTransformer, or a CrossEncoder for a reranker, or make it of a checkpoint, for training.

    A checkpoint of ours then reads in both directions. `max_length` is in tokens, by default that of an index's texts.
    """
    with extra("rag", "An embedding model"):
        from sentence_transformers import CrossEncoder, SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
        from sentence_transformers.util import is_sentence_transformer_model
    source = str(Path(name).expanduser())
    if (Path(source) / ADAPTER_CONFIG).is_file():
        raise ValueError(f"{name} is an adapter: merge it first with folio merge {name} DIRECTORY.")
    if not reranker and (name == MINILM or is_sentence_transformer_model(source)):
        model = load_embedder(source).model
        model.max_seq_length = _length(name, model.max_seq_length or MAX_LENGTH, max_length)
        return model
    transformers.logging.set_verbosity_error()
    if name == MINILM:
        source = str(packaged_minilm() or name)
    backbone = _load_backbone(name, source, reranker)
    tokenizer = load_tokenizer_of(name, source)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.padding_side = "right"  # padding on the left, as in chats, would shift learned positions
    tokenizer.chat_template = None  # with one, sentence-transformers would read each text as a turn of a chat
    backbone.config.pad_token_id = tokenizer.pad_token_id
    default = MAX_LENGTH + QUESTION_TOKENS * reranker
    context = min(context_length(backbone) or default, tokenizer.model_max_length)
    tokenizer.model_max_length = _length(name, context, max_length, default)
    if reranker and not tokenizer.num_special_tokens_to_add(pair=True):  # nothing would separate the two texts
        separator = tokenizer.eos_token or tokenizer.pad_token
        ids = [(separator, tokenizer.convert_tokens_to_ids(separator))]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing("$A", f"$A {separator} $B", ids)
    with tempfile.TemporaryDirectory() as folder:  # sentence-transformers loads only from files
        backbone.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if reranker:
            return CrossEncoder(folder)
        transformer = Transformer(folder, max_seq_length=tokenizer.model_max_length)
    pooling = Pooling(backbone.config.hidden_size, "mean")
    return SentenceTransformer(modules=[transformer, pooling, Normalize()])


def _load_backbone(name: str, source: str, reranker: bool) -> PreTrainedModel:
    """Load the backbone of a checkpoint without its head, or with one of one score, its own or a new one."""
    with one_line(name):
        config = AutoConfig.from_pretrained(source)
    if config.is_encoder_decoder:
        raise ValueError(f"{name} is of type {config.model_type}, an encoder-decoder: give an encoder or a decoder.")
    changes = {"use_cache": False, **({"is_causal": False} if isinstance(config, FolioConfig) else {})}
    if reranker:
        model, missing = load_checkpoint(source, "classify", num_labels=1, dtype="float32", **changes)
        missing = [key for key in missing if key.startswith(f"{model.base_model_prefix}.")]
    else:
        options: Any = {"use_safetensors": True, "dtype": "float32", "output_loading_info": True}
        config.update(changes)
        with one_line(name):
            model, info = AutoModel.from_pretrained(source, config=config, **options)
        missing = info["missing_keys"]
    if missing := sorted(key for key in missing if "pooler" not in key):  # BERT's, which few checkpoints have
        raise ValueError(f"{name} lacks weights of the backbone ({missing[0]}): give a complete checkpoint.")
    return model


def _length(name: str, context: int, max_length: int | None, default: int = MAX_LENGTH) -> int:
    if max_length is not None and max_length > context:
        raise ValueError(f"max_length is {max_length}, and {name} reads {context} tokens: use that or less.")
    return max_length or min(context, default)
