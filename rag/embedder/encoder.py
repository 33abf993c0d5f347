"""A checkpoint as an embedder that has yet to be trained: the mean of its last states is a text's vector."""

import tempfile
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoModel, PreTrainedModel

from ...checkpoints.loading import ADAPTER_CONFIG, context_length, load_tokenizer_of, one_line
from ...jobs.extras import extra
from ...modeling import FolioConfig
from ..chunking import CHUNK_TOKENS, CONTEXT_TOKENS
from ..embedding import MINILM, load_embedder

MODULES_FILE = "modules.json"  # by which a sentence-transformers model is told
LONGEST = CHUNK_TOKENS + CONTEXT_TOKENS + 6  # tokens: what an index gives an embedder to read


def load_encoder(name: str, max_length: int | None = None):
    """A SentenceTransformer made of a checkpoint, or one that is there, to be trained.

    Args:
        name: the directory or Hub name of a checkpoint, an encoder or a causal model, or of a sentence-transformers
            model. A model of ours reads in both directions from then on.
        max_length: tokens of a text, of which longer ones lose the end; by default as many as an index's passages may
            have, if the model can read so many.

    Raises:
        OSError: there is no whole checkpoint.
        ValueError: it is an adapter, has no single stack, or cannot read `max_length` tokens.
        ImportError: sentence-transformers is missing; names the extra that has it.
    """
    with extra("rag", "An embedder"):
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
        from sentence_transformers.util import is_sentence_transformer_model
    source = str(Path(name).expanduser())
    if (Path(source) / ADAPTER_CONFIG).is_file():
        raise ValueError(f"{name} is an adapter: merge it first with folio merge {name} DIRECTORY.")
    if name == MINILM or is_sentence_transformer_model(source):
        model = load_embedder(source).model
        model.max_seq_length = _length(name, model.max_seq_length or LONGEST, max_length)
        return model
    transformers.logging.set_verbosity_error()
    stack = _stack(name, source)
    tokenizer = load_tokenizer_of(name, source)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.padding_side = "right"  # a chat's pads on the left, where learned positions would be moved
    tokenizer.chat_template = None  # with one, sentence-transformers would read each text as a turn of a chat
    stack.config.pad_token_id = tokenizer.pad_token_id
    context = min(context_length(stack) or LONGEST, tokenizer.model_max_length)
    tokenizer.model_max_length = _length(name, context, max_length)
    with tempfile.TemporaryDirectory() as folder:  # sentence-transformers reads from files alone
        stack.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        transformer = Transformer(folder, max_seq_length=tokenizer.model_max_length)
    pooling = Pooling(stack.config.hidden_size, "mean")
    return SentenceTransformer(modules=[transformer, pooling, Normalize()])


def _stack(name: str, source: str) -> PreTrainedModel:
    """The stack of a checkpoint without its head; ours reads in both directions."""
    with one_line(name):
        config = AutoConfig.from_pretrained(source)
    if config.is_encoder_decoder:
        raise ValueError(f"{name} is of type {config.model_type}, an encoder and a decoder: give one with one stack.")
    if isinstance(config, FolioConfig):
        config.is_causal = False
    config.use_cache = False
    with one_line(name):
        loaded: Any = AutoModel.from_pretrained(
            source, config=config, use_safetensors=True, dtype="float32", output_loading_info=True
        )
    model, info = loaded
    if missing := sorted(key for key in info["missing_keys"] if "pooler" not in key):  # BERT's, which is not used
        raise ValueError(f"{name} lacks weights of the stack ({missing[0]}): give a whole one.")
    return model


def _length(name: str, context: int, wanted: int | None) -> int:
    if wanted is not None and wanted > context:
        raise ValueError(f"max_length is {wanted}, and {name} reads {context} tokens: use that or less.")
    return wanted or min(context, LONGEST)
