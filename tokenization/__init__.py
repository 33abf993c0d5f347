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

__getattr__ = lazy_names(__name__, {
    "BPETokenizer": "bpe", "WordPieceTokenizer": "wordpiece", "encode_chat": "special_tokens",
    "encode_texts": "special_tokens", "chat_tokenizer": "trained", "load_tokenizer": "trained",
    "train_char_tokenizer": "trained", "train_tokenizer": "trained", "vocabulary_size": "trained",
})  # fmt: skip
