"""Retrieval-augmented generation: ask your documents, with citations."""

from .answering import Answer, Citation, Passage, Sentence
from .documents import Document, Heading, Hit, SyncReport, VerifyReport
from .rag import Rag
from .writers import ModelWriter, QuoteWriter, load_writer

__all__ = [
    "Answer", "Citation", "Document", "Heading", "Hit", "ModelWriter", "Passage", "QuoteWriter", "Rag", "Sentence",
    "SyncReport", "VerifyReport", "load_writer",
]  # fmt: skip
