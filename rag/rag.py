"""`Rag`: an index of documents, kept in sync, with search and answers."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .answering import PASSAGES, Answer, AnswerGenerator, answer
from .database import storage_errors
from .documents import Document, Hit, SyncReport, VerifyReport
from .embedding import Embedder
from .evaluation.datasets import Dataset
from .evaluation.evaluate import evaluate
from .evaluation.report import EvaluationReport
from .generators import ExtractiveGenerator
from .index import server_address
from .retrieval import Retriever
from .sources import name_of
from .store import Store
from .sync import Sync

if TYPE_CHECKING:
    from .short_answers import Reader


class Rag(AbstractContextManager):
    """An index of documents for any number of processes and threads. `Rag.open` opens one."""

    def __init__(self, retriever: Retriever) -> None:
        self._retriever, self._store = retriever, retriever.store

    @classmethod
    def open(
        cls,
        path: str | Path,
        url: str | None = None,
        embedder: str | Path | Embedder | None = None,
        reranker: Any = None,
        rewrite: Callable[[str], str | list[str]] | None = None,
    ) -> "Rag":
        """Open the index in a folder, or the one that `sync` will create there.

        Args:
            url: the Chroma server that has the vectors, if not the folder: http(s)://[user:password@]host:port.
            embedder: a sentence-transformers model by directory or name, or a loaded one; by default the index's own,
                or all-MiniLM-L6-v2 (English) for a new one.
            reranker: a sentence-transformers CrossEncoder by directory or name, or an object with its `predict`.
            rewrite: returns one or several texts to search for instead of a question.
        """
        if url is not None:
            server_address(url)
        store = Store(Path(path).expanduser().absolute(), url, embedder)
        return cls(Retriever(store, reranker, rewrite))

    def sync(
        self,
        source: str | Path | Iterable[Document],
        prune: bool = False,
        text_column: str = "text",
        progress: Callable[[SyncReport], None] | None = None,
    ) -> SyncReport:
        """Bring the index up to date with documents. Unchanged ones are neither read nor embedded again.

        Args:
            source: a file, a folder, "python-manual" for the manual of the running Python, or documents.
            prune: delete documents whose files in that folder are gone; if documents are given, all others that were
                ever given. A file that exists and cannot be read keeps its documents.
            text_column: of CSV, TSV and JSONL. "title" is the title; other text, numbers and booleans are metadata.
            progress: called after each batch with the report so far.

        Raises OSError if there is no such file or folder, or the disk is full, for instance; ValueError if there is
        nothing to read, or for another embedding model than before. Earlier batches are kept.
        """
        with storage_errors(self._store.path):
            return Sync(self._store, prune, text_column, progress).run(source)

    def delete(self, *names: str | Path) -> int:
        """Delete the documents of documents', files' or folders' names, with all traces; return how many there were."""
        if not all(str(name).strip() for name in names):
            raise ValueError("A name is empty: give the name of a document, a file or a folder.")
        with storage_errors(self._store.path):
            paths = (name_of(Path(name).expanduser().resolve()) for name in names)
            return self._store.forget({*map(str, names), *paths})

    def search(self, query: str, k: int = 10, mode: str = "hybrid", where: dict | None = None) -> list[Hit]:
        """Return at most `k` passages nearest to a question, the best first.

        Args:
            mode: "dense" (by vectors), "lexical" (by words, BM25), or "hybrid" (both, fused by rank).
            where: a condition on metadata in Chroma's language: {"type": "pdf"}, {"year": {"$gt": 2000}}.

        Raises FileNotFoundError without an index, RuntimeError if it is damaged, and ValueError for invalid arguments,
        an empty index, or another embedding model than before.
        """
        with storage_errors(self._store.path):
            return self._retriever.search(query, k, mode, where)

    def answer(
        self,
        question: str,
        generator: AnswerGenerator | None = None,
        k: int = PASSAGES,
        mode: str = "hybrid",
        where: dict | None = None,
        stream: Callable[[str], None] | None = None,
        refuse: str = "default",
        reader: "Reader | None" = None,
    ) -> Answer:
        """Answer a question from the nearest passages and some neighbors, with verified citations.

        Args:
            generator: an `LLMGenerator` for any causal language model with a chat template; by default the answer is
                the sentences nearest to the question, verbatim.
            k, mode, where: as for `search`.
            stream: called with each sentence of the answer. An exception that it raises ends the answer.
            refuse: "never", "default", or "strict", which answers only if passages are clearly about the question.
            reader: of `short_answers.load_reader`; its `ShortAnswer`, if it finds one, is the first sentence.

        Returns a refusal with its reason and the nearest passages if none is relevant enough. Raises what `search`
        does, and ValueError if the question leaves no room for a passage in the model's context.
        """
        with storage_errors(self._store.path):
            generator = generator or ExtractiveGenerator(self._store.embedder)
            generator = replace(reader, generator=generator) if reader else generator
            return answer(self._retriever, question, generator, k, mode, where, stream, refuse)

    def document(self, name: str) -> Document:
        """Return a document as it was indexed; KeyError without one. A hit's text is `text[hit.start:hit.end]`."""
        with storage_errors(self._store.path):
            return self._store.catalog.document(name)

    def verify(self) -> VerifyReport:
        """Compare all chunks and vectors of the catalog and the dense index."""
        with storage_errors(self._store.path):
            problems = self._store.problems()
            return VerifyReport(*self._store.catalog.counts(), tuple(problems))

    def rebuild(self) -> int:
        """Rebuild the dense index, and embed all chunks for another embedding model; return how many were embedded."""
        with storage_errors(self._store.path):
            return self._store.rebuild()

    def evaluate(
        self,
        dataset: str | Path | Dataset,
        modes: Sequence[str] = ("dense", "lexical", "hybrid"),
        questions: int | None = None,
        generator: AnswerGenerator | Literal["quote"] | None = None,
        calibrate: bool = False,
        progress: Callable[[str], None] | None = None,
    ) -> EvaluationReport:
        """Measure how well each mode finds the answers to questions, and how well other questions are refused.

        Args:
            dataset: "known-items" for questions generated from the documents of the index and asked of a copy of it; a
                folder in BEIR's layout, or questions in SQuAD's form. Their documents are indexed here.
            questions: maximum number of questions, sampled at random; by default 300 known items, and all of a dataset.
            generator: evaluate its answers as well; "quote" is the default one of `answer`.
            calibrate: fit the threshold of refusal on these questions, and store it in the index.
            progress: called with a line of progress.

        Raises FileNotFoundError without the dataset, or an index for known items; ValueError for an incomplete dataset,
        an index with other documents, or too few questions to calibrate.
        """
        with storage_errors(self._store.path):
            return evaluate(self._retriever, dataset, modes, questions, generator, calibrate, progress)

    def close(self) -> None:
        """Close the files. The next call opens them again."""
        self._store.close()

    def __exit__(self, *exception: object) -> None:
        self.close()
