"""A checkpoint as an embedder, whose vectors are means of the last states, or as a cross-encoder, to be trained."""

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

MODULES_FILE = "modules.json"  # by which a sentence-transformers model is told
LONGEST = CHUNK_TOKENS + CONTEXT_TOKENS + 6  # tokens: what an index gives an embedder to read
QUESTION_TOKENS = 64  # that a cross-encoder reads beside them


def load_encoder(name: str, max_length: int | None = None, reranker: bool = False):
    """A SentenceTransformer, or a CrossEncoder for a reranker, made of a checkpoint or already there, to be trained.

    A checkpoint of ours reads in both directions from then on. `max_length` tokens of a text are read, by default as
    many as an index's passages may have. OSError if there is no whole checkpoint; ValueError if it is an adapter, has
    no single stack, or cannot read so many tokens.
    """
    with extra("rag", "An embedder"):
        from sentence_transformers import CrossEncoder, SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
        from sentence_transformers.util import is_sentence_transformer_model
    source = str(Path(name).expanduser())
    if (Path(source) / ADAPTER_CONFIG).is_file():
        raise ValueError(f"{name} is an adapter: merge it first with folio merge {name} DIRECTORY.")
    if not reranker and (name == MINILM or is_sentence_transformer_model(source)):
        model = load_embedder(source).model
        model.max_seq_length = _length(name, model.max_seq_length or LONGEST, max_length)
        return model
    transformers.logging.set_verbosity_error()
    if name == MINILM:
        source = str(packaged_minilm() or name)
    stack = _stack(name, source, reranker)
    tokenizer = load_tokenizer_of(name, source)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.padding_side = "right"  # a chat's pads on the left, where learned positions would be moved
    tokenizer.chat_template = None  # with one, sentence-transformers would read each text as a turn of a chat
    stack.config.pad_token_id = tokenizer.pad_token_id
    longest = LONGEST + QUESTION_TOKENS * reranker
    context = min(context_length(stack) or longest, tokenizer.model_max_length)
    tokenizer.model_max_length = _length(name, context, max_length, longest)
    if reranker and not tokenizer.num_special_tokens_to_add(pair=True):  # else two texts would be written as one
        mark = tokenizer.eos_token or tokenizer.pad_token
        ids = [(mark, tokenizer.convert_tokens_to_ids(mark))]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing("$A", f"$A {mark} $B", ids)
    with tempfile.TemporaryDirectory() as folder:  # sentence-transformers reads from files alone
        stack.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if reranker:
            return CrossEncoder(folder)
        transformer = Transformer(folder, max_seq_length=tokenizer.model_max_length)
    pooling = Pooling(stack.config.hidden_size, "mean")
    return SentenceTransformer(modules=[transformer, pooling, Normalize()])


def _stack(name: str, source: str, reranker: bool) -> PreTrainedModel:
    """The stack of a checkpoint without its head, or with one of one score, its own or a new one."""
    with one_line(name):
        config = AutoConfig.from_pretrained(source)
    if config.is_encoder_decoder:
        raise ValueError(f"{name} is of type {config.model_type}, an encoder and a decoder: give one with one stack.")
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
        raise ValueError(f"{name} lacks weights of the stack ({missing[0]}): give a whole one.")
    return model


def _length(name: str, context: int, wanted: int | None, longest: int = LONGEST) -> int:
    if wanted is not None and wanted > context:
        raise ValueError(f"max_length is {wanted}, and {name} reads {context} tokens: use that or less.")
    return wanted or min(context, longest)
