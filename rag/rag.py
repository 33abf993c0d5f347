"""`Rag`: documents in a folder, an index that follows them, search, and answers.

rag = Rag.open("runs/index")
rag.sync("docs")
for hit in rag.search("How is a model exported?", k=3):
    print(hit.document, hit.start, hit.end, hit.text)
print(rag.answer("How is a model exported?").text)
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .answering import PASSAGES, Answer, Writer, answer
from .database import storage_errors
from .documents import Document, Hit, SyncReport, VerifyReport
from .embedding import Embedder
from .index import server_address
from .retrieval import Retriever, check
from .sources import name_of
from .store import Store
from .sync import Sync
from .writers import QuoteWriter

if TYPE_CHECKING:
    from .evaluation.datasets import Dataset
    from .evaluation.report import EvaluationReport
    from .short_answers import Reader


class Rag(AbstractContextManager):
    """An index of documents; `Rag.open` opens one. Any number of processes and threads may use it."""

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
        """Open the index in a folder, or the one that `sync` will make there.

        Args:
            url: a Chroma server that has the vectors, if not the folder: http(s)://[user:password@]host:port.
            embedder: a sentence-transformers model by directory or name; by default the index's own, or
                all-MiniLM-L6-v2 (English) for a new one.
            reranker: a sentence-transformers CrossEncoder by directory or name, or anything with its `predict`.
            rewrite: turns a question into what is searched for instead, one text or several.
        """
        if url is not None:
            server_address(url)
        store = Store(Path(path).expanduser().absolute(), url, embedder)
        return cls(Retriever(store, reranker, rewrite))

    def sync(
        self,
        source: str | Path | Iterable[Document],
        delete_missing: bool = False,
        text_column: str = "text",
        progress: Callable[[SyncReport], None] | None = None,
    ) -> SyncReport:
        """Bring the index up to date with documents: what did not change is neither read nor embedded again.

        Args:
            source: a file, a folder, "python-manual" for the manual of the running Python, or documents.
            delete_missing: delete documents that are no longer there: of the file or folder, or, if documents are
                given, of all that ever were. What is there and cannot be read keeps what it had.
            text_column: the column or field with the text, for CSV, TSV and JSONL. "title" is the title; what else is
                text, a number or a boolean becomes metadata.
            progress: called after each batch with the report so far.

        Raises FileNotFoundError without the file or folder; ValueError if there is nothing to read, or for another
        embedder than before; OSError if the disk is full, for instance. What was done before is kept.
        """
        with storage_errors(self._store.path):
            return Sync(self._store, delete_missing, text_column, progress).run(source)

    def delete(self, *names: str | Path) -> int:
        """Delete documents, their words and vectors, and all traces of them in the files; returns how many there were.

        `names` are of documents, or of the files or folders that they come from and that may be gone. What is still
        there comes back with the next sync. ValueError if a name is empty.
        """
        if not all(str(name).strip() for name in names):
            raise ValueError("A name is empty: give the name of a document, a file or a folder.")
        with storage_errors(self._store.path):
            paths = (name_of(Path(name).expanduser().resolve()) for name in names)
            return self._store.forget({*map(str, names), *paths})

    def search(self, query: str, k: int = 10, mode: str = "hybrid", where: dict | None = None) -> list[Hit]:
        """The passages nearest to a question, the best first, at most `k`.

        Args:
            mode: "dense" (by vectors), "lexical" (by words, BM25), or "hybrid" (both, fused by rank).
            where: a condition on the documents' metadata, in Chroma's words: {"type": "pdf"}, {"year": {"$gt": 2000}}.

        Raises FileNotFoundError without an index, RuntimeError if it is damaged, and ValueError for what cannot be
        asked, an index without documents, and another embedder than before.
        """
        check(query, k, mode, where)
        with storage_errors(self._store.path):
            return self._retriever.search(query, k, mode, where)

    def answer(
        self,
        question: str,
        generator: Writer | None = None,
        k: int = PASSAGES,
        mode: str = "hybrid",
        where: dict | None = None,
        stream: Callable[[str], None] | None = None,
        refuse: str = "default",
        reader: "Reader | None" = None,
    ) -> Answer:
        """Answer a question from the passages nearest to it and some neighbours, with citations that hold.

        Args:
            generator: a `ModelWriter`, which is any causal language model with a chat template. By default the answer
                is the sentences nearest to the question, verbatim.
            k, mode, where: as for `search`.
            stream: is given the answer's text sentence by sentence, each when it is whole and checked. What it raises
                ends the answer.
            refuse: "never", "default", or "strict", which answers only where passages are clearly about the question.
            reader: of `short_answers.load_reader`: finds a few words, a `ShortAnswer`, which become the first sentence.

        Returns a refusal with its reason and the nearest passages, if nothing that was found has enough to do with the
        question. How much is enough is in the index (`refusal.store_threshold`), or a default. Raises what `search`
        does, and ValueError if the question leaves no room for a passage in the model's context.
        """
        with storage_errors(self._store.path):
            writer = generator or QuoteWriter(self._store.embedder)
            writer = replace(reader, writer=writer) if reader else writer
            return answer(self._retriever, question, writer, k, mode, where, stream, refuse)

    def document(self, name: str) -> Document:
        """A document as it was indexed, of which a hit's `text` is `text[hit.start:hit.end]`; KeyError without one."""
        with storage_errors(self._store.path):
            return self._store.catalog.document(name)

    def verify(self) -> VerifyReport:
        """Compare all that the catalog and the dense index hold."""
        with storage_errors(self._store.path):
            problems = self._store.problems()
            return VerifyReport(*self._store.catalog.counts(), tuple(problems))

    def rebuild(self) -> int:
        """Make the dense index anew, with another embedder than before after embedding everything; returns how much."""
        with storage_errors(self._store.path):
            return self._store.rebuild()

    def evaluate(
        self,
        dataset: "str | Path | Dataset",
        modes: Sequence[str] = ("dense", "lexical", "hybrid"),
        questions: int | None = None,
        generator: Writer | Literal["quote"] | None = None,
        calibrate: bool = False,
        progress: Callable[[str], None] | None = None,
    ) -> "EvaluationReport":
        """Say how well the index finds what answers questions, in which mode best, and how well it tells others.

        Args:
            dataset: "known-items" for questions that are made of the index's own documents and asked of a copy of it;
                a folder in BEIR's layout, or questions in SQuAD's form (`load_dataset`). Documents that a data set
                brings along are indexed here, if there are no others.
            questions: ask so many at most, drawn by chance; by default 300 known items, and all of a data set.
            generator: judge the answers of this writer, too; "quote" is the one that `answer` has by default.
            calibrate: from now on, refuse questions by the line that these ones draw.
            progress: called with a line that says how far it is.

        Raises FileNotFoundError without the data set, or an index to make known items of; ValueError for a data set
        that is not whole, an index with other documents, or too few questions to calibrate.
        """
        from .evaluation.evaluate import evaluate

        with storage_errors(self._store.path):
            return evaluate(self._retriever, dataset, modes, questions, generator, calibrate, progress)

    def close(self) -> None:
        """Let go of the files. What is asked next opens them again."""
        self._store.close()

    def __exit__(self, *exception: object) -> None:
        self.close()
