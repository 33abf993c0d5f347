"""Retrieval-augmented generation: ask your documents, with citations."""

from .answering import Answer, Citation, Passage, Sentence
from .documents import Document, Heading, Hit, SyncReport, VerifyReport
from .generators import ExtractiveGenerator, LLMGenerator, load_generator
from .rag import Rag

__all__ = [
    "Answer", "Citation", "Document", "ExtractiveGenerator", "Heading", "Hit", "LLMGenerator", "Passage", "Rag",
    "Sentence", "SyncReport", "VerifyReport", "load_generator",
]  # fmt: skip
