"""Tokenizers: the trained one that every checkpoint carries, and what is done to text before."""

from .trained import train_char_tokenizer, train_tokenizer

__all__ = ["train_char_tokenizer", "train_tokenizer"]
