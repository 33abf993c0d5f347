"""Retrieval-augmented generation: ask your documents, with citations."""

from .documents import Document, Heading, Hit, SyncReport, VerifyReport
from .rag import Rag

__all__ = ["Document", "Heading", "Hit", "Rag", "SyncReport", "VerifyReport"]
