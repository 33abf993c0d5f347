"""Tokenizers: two from scratch, and the trained one of every checkpoint; text and chats as ids."""

from typing import TYPE_CHECKING

from ..jobs.lazy import lazy_names

if TYPE_CHECKING:
    from .bpe import BPETokenizer
    from .special_tokens import encode_chat, encode_texts
    from .trained import chat_tokenizer, load_tokenizer, train_char_tokenizer, train_tokenizer, vocabulary_size
    from .wordpiece import WordPieceTokenizer

__all__ = [
    "BPETokenizer", "WordPieceTokenizer", "chat_tokenizer", "encode_chat", "encode_texts", "load_tokenizer",
    "train_char_tokenizer", "train_tokenizer", "vocabulary_size",
]  # fmt: skip

MODULES = {
    "bpe": ["BPETokenizer"],
    "wordpiece": ["WordPieceTokenizer"],
    "special_tokens": ["encode_chat", "encode_texts"],
    "trained": ["chat_tokenizer", "load_tokenizer", "train_char_tokenizer", "train_tokenizer", "vocabulary_size"],
}
__getattr__ = lazy_names(__name__, {name: module for module, names in MODULES.items() for name in names})
