"""A checkpoint as an embedder that has yet to be trained: the stack reads in both directions, and its mean is taken."""

import tempfile
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig

from ...checkpoints.loading import ADAPTER_CONFIG, load_tokenizer_of, one_line
from ...jobs.extras import extra
from ...modeling import FolioConfig, FolioModel
from ..chunking import CHUNK_TOKENS, CONTEXT_TOKENS
from ..embedding import load_embedder

MODULES_FILE = "modules.json"  # by which a sentence-transformers model is told
LONGEST = CHUNK_TOKENS + CONTEXT_TOKENS + 6  # tokens: what an index gives an embedder to read


def load_encoder(name: str, max_length: int | None = None):
    """A SentenceTransformer made of a Folio checkpoint, or one that was, to be trained further.

    Args:
        name: the directory or Hub name of a checkpoint, a GPT or an encoder, or the directory of an embedder of ours.
        max_length: tokens of a text, of which longer ones lose the end; by default as many as an index's passages may
            have, if the model can read so many.

    Raises:
        OSError: there is no whole checkpoint.
        ValueError: it is none of ours, is an adapter, or cannot read `max_length` tokens.
        ImportError: sentence-transformers is missing; names the extra that has it.
    """
    with extra("rag", "An embedder"):
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    source = str(Path(name).expanduser())
    if (Path(source) / ADAPTER_CONFIG).is_file():
        raise ValueError(f"{name} is an adapter: merge it first with folio merge {name} DIRECTORY.")
    if (Path(source) / MODULES_FILE).is_file():
        model = load_embedder(name).model
        _check_kind(name, model[0].auto_model.config)
        model.max_seq_length = _length(name, model.max_seq_length or LONGEST, max_length)
        return model
    transformers.logging.set_verbosity_error()
    stack = _encoder(name, source)
    tokenizer = load_tokenizer_of(name, source)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.padding_side = "right"  # a chat's pads on the left, where learned positions would be moved
    tokenizer.chat_template = None  # with one, sentence-transformers would read each text as a turn of a chat
    stack.config.pad_token_id = tokenizer.pad_token_id
    tokenizer.model_max_length = _length(name, stack.config.max_position_embeddings, max_length)
    with tempfile.TemporaryDirectory() as folder:  # sentence-transformers reads from files alone
        stack.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        transformer = Transformer(folder, max_seq_length=tokenizer.model_max_length)
    pooling = Pooling(stack.config.hidden_size, "mean")
    return SentenceTransformer(modules=[transformer, pooling, Normalize()])


def _encoder(name: str, source: str) -> FolioModel:
    """The stack of a checkpoint without its head, reading in both directions."""
    with one_line(name):
        config = AutoConfig.from_pretrained(source)
    _check_kind(name, config)
    config.is_causal, config.use_cache = False, False
    with one_line(name):
        loaded: Any = FolioModel.from_pretrained(source, config=config, use_safetensors=True, output_loading_info=True)
    model, info = loaded
    if info["missing_keys"]:
        raise ValueError(f"{name} lacks weights of the stack ({sorted(info['missing_keys'])[0]}): give a whole one.")
    return model


def _check_kind(name: str, config) -> None:
    if not isinstance(config, FolioConfig):
        raise ValueError(f"{name} is of type {config.model_type}, not ours: give a checkpoint of folio pretrain.")


def _length(name: str, context: int, wanted: int | None) -> int:
    if wanted is not None and wanted > context:
        raise ValueError(f"max_length is {wanted}, and {name} reads {context} tokens: use that or less.")
    return wanted or min(context, LONGEST)
