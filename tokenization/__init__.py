"""Tokenizers: BPE from scratch, the trained one that every checkpoint carries, and what is done to text before."""

from .bpe import BPETokenizer
from .trained import train_char_tokenizer, train_tokenizer

__all__ = ["BPETokenizer", "train_char_tokenizer", "train_tokenizer"]
