"""Retrieval-augmented generation: ask your documents, with citations."""

from .answering import Answer, Citation, Passage
from .documents import Document, Heading, Hit, SyncReport, VerifyReport
from .rag import Rag

__all__ = ["Answer", "Citation", "Document", "Heading", "Hit", "Passage", "Rag", "SyncReport", "VerifyReport"]
