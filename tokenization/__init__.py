"""Tokenizers: two from scratch, the trained one that every checkpoint carries, and what is done to text before."""

from .bpe import BPETokenizer
from .trained import train_char_tokenizer, train_tokenizer
from .wordpiece import WordPieceTokenizer

__all__ = ["BPETokenizer", "WordPieceTokenizer", "train_char_tokenizer", "train_tokenizer"]
