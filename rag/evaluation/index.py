"""What an evaluation uses of an index. `Rag` has it; the evaluation does not import `Rag`, which imports it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from ..answering import Answer
from ..documents import Document, Hit, SyncReport
from ..retrieval import Retriever
from ..store import Store


class Index(Protocol):
    """An open `Rag`."""

    _store: Store
    _retriever: Retriever

    def __init__(self, store: Store, retriever: Retriever) -> None: ...
    def __enter__(self) -> "Index": ...
    def __exit__(self, *exception: object) -> None: ...
    def document(self, name: str) -> Document: ...
    def sync(self, documents: str | Path | Iterable[Document], *args: Any, **kwargs: Any) -> SyncReport: ...
    def search(self, query: str, *args: Any, **kwargs: Any) -> list[Hit]: ...
    def answer(self, question: str, *args: Any, **kwargs: Any) -> Answer: ...
