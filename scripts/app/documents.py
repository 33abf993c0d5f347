"""The tab of `folio app` that answers from documents that a user drops on it.

Each visit has an index of its own. A document is known by its name only and shown from the index, so no other file can
be read. All text is escaped.
"""

import asyncio
import contextlib
import re
import tempfile
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cache
from html import escape
from pathlib import Path, PurePath
from pydoc_data.topics import topics

from transformers import PreTrainedTokenizerBase

from ...jobs.extras import missing_extra
from ...rag import Document, LLMGenerator, Rag
from ...rag.embedding import MINILM_PACKAGE, load_embedder, packaged_minilm
from ...rag.quotations import shown
from ...rag.readers.pool import ReaderPool
from ...rag.sources import read_file
from ...serving.generator import TextGenerator
from .markdown import marked_markdown
from .parts import EVENT, box, check, gr, one_line_errors, run_controls

SHOWN_AROUND = 20_000  # characters of a document before and after a citation
LABEL = "Documents: PDF, Office, HTML, text, ..."
HINT = "Drop files above, ask, and click a citation to see it in its document. The examples ask the Python manual."
NUMBER = re.compile(r"\[(\d+)\]")  # of a citation; nothing else in an answer looks like it
TOPICS = ("for", "while", "try", "with")  # of the Python manual, for the examples
QUESTIONS = ["How does a for loop end early?", "What does a finally clause do?", "What is a context manager?"]
load_once = cache(load_embedder)  # for all visitors


class Visit:
    """An index of the files that one visitor has dropped. `close` deletes it."""

    def __init__(self) -> None:
        if packaged_minilm() is None:  # otherwise it would be downloaded
            raise missing_extra("rag", "The default embedder", MINILM_PACKAGE)
        self.folder = tempfile.TemporaryDirectory(prefix="folio-app-", ignore_cleanup_errors=True)
        self.rag = Rag.open(self.folder.name, embedder=load_once())
        self.is_empty = True
        self.dropped: set[Path] = set()
        self.lock = threading.RLock()

    def index(self, paths: list[str]) -> str:
        """Replace the documents of the index by these files, and report the result."""
        documents, failed, seen = [], [], Counter()
        with self.lock, contextlib.closing(ReaderPool()) as pool:
            self.dropped.update(map(Path, paths))
            for path in map(Path, paths):  # Gradio has refused what was not dropped
                seen[path.name] += 1
                name = path.name if seen[path.name] == 1 else f"{path.stem} ({seen[path.name]}){path.suffix}"
                try:
                    documents += pool.read(PurePath(name), read_file(path, "").data, "text")
                except (ValueError, OSError, ImportError) as error:
                    failed.append(f"{name} {error}")
            return self.index_documents(documents, failed)

    def index_documents(self, documents: list, left_out: Sequence[str] = ()) -> str:
        with self.lock:
            failed = self.rag.sync(documents, prune=True).failed
            found = self.rag.verify()
            self.is_empty = not found.chunks
        left_out = [*left_out, *(f"{name} {why}" for name, why in failed.items())]
        counts = f"Documents: {found.documents:,}, passages: {found.chunks:,}."
        return counts + "".join(f" Left out: {each}." for each in left_out)

    def close(self) -> None:
        with self.lock:
            self.is_empty = True
            self.rag.close()
            self.folder.cleanup()


def documents_tab(generator: TextGenerator, tokenizer: PreTrainedTokenizerBase, sampling: dict) -> Callable:
    """Draw the tab, and return a function that deletes a visit (`gr.Request`) and the files that only it has."""
    visits: dict[str | None, Visit] = {}  # by the session of the page

    async def visit_of(request: gr.Request) -> Visit:
        if (visit := visits.get(request.session_hash)) is None:
            visit = visits[request.session_hash] = await asyncio.to_thread(Visit)
        return visit

    def forget(request: gr.Request) -> None:
        if (visit := visits.pop(request.session_hash, None)) is not None:
            visit.close()
            for path in visit.dropped.difference(*(other.dropped for other in visits.values())):
                path.unlink(missing_ok=True)

    async def index(paths: list[str] | None, request: gr.Request) -> tuple[str, str]:
        with one_line_errors():
            if not paths and request.session_hash not in visits:
                return "", _hint(HINT)
            visit = await visit_of(request)
            return _hint(await asyncio.to_thread(visit.index, paths or [])), _hint(HINT)

    async def ask(question: str, by_model: bool, request: gr.Request, *values) -> AsyncIterator[str]:
        with one_line_errors():
            check(question, "question")
            yield _hint("…")
            visit = visits.get(request.session_hash)
            if visit is None or visit.is_empty:  # the user may have removed the files
                if question not in QUESTIONS:
                    raise ValueError("There is no document to ask: drop a file first.")
                visit = await visit_of(request)
                manual = [Document(f"python-manual-{name}.txt", topics[name]) for name in TOPICS]
                await asyncio.to_thread(visit.index_documents, manual)
            options = dict(zip(sampling, values, strict=True))
            llm = LLMGenerator(generator, tokenizer, **options) if by_model else None
            pieces: list[str] = []
            answering = asyncio.ensure_future(asyncio.to_thread(visit.rag.answer, question, llm, stream=pieces.append))
            try:
                while not (await asyncio.wait([answering], timeout=0.2))[0]:
                    if pieces:
                        yield f'<div class="folio-answer"><div class="text">{escape("".join(pieces))}</div></div>'
            finally:  # also if the user stops it
                if llm is not None:
                    llm.stop()
            answer = answering.result()
            yield await asyncio.to_thread(answer_html, answer, visit.rag.document)

    files, status = gr.File(file_count="multiple", label=LABEL, height=150), gr.HTML()
    question, out = box("A question to the documents", container=False), gr.HTML(_hint(HINT), render=False)
    label, asks_model = "The model answers (otherwise the documents are quoted)", bool(tokenizer.chat_template)
    by_model = gr.Checkbox(False, label=label, visible=asks_model, container=False, elem_classes="folio-by-model")
    files.change(index, files, [status, out], **EVENT)
    run_controls(ask, question, ["Ask", "Stop"], [by_model, *sampling.values()], [out], QUESTIONS, [_hint(HINT)])
    out.render()
    return forget


def answer_html(answer, document_of: Callable) -> str:
    """Draw an answer, or the nearest passages, with links to the documents in which the citations are marked."""
    if answer.refused:
        nearest = " The nearest passages, though none may answer it:" if answer.nearest else ""
        html = f'<div class="folio-hint">{escape(f"No answer: {answer.reason}.{nearest}")}</div>'
    else:
        text = NUMBER.sub(lambda found: _link(int(found[1]), found[0]), escape(answer.text.strip()))
        html = f'<div class="text">{text}</div>'
    items, documents = [], []
    for number, citation in enumerate(answer.nearest if answer.refused else answer.citations, 1):
        page = f", page {citation.page}" if citation.page else ""
        label = f"[{number}] {citation.document}{page}: {shown(citation.quote)}"
        items.append(f"<li>{_link(number, label)}</li>")
        documents.append(_document_html(number, citation, document_of(citation.document)))
    return f'<div class="folio-answer">{html}<ol>{"".join(items)}</ol>{"".join(documents)}</div>'


def _document_html(number: int, citation, document) -> str:
    text, id = document.text, f"folio-citation-{number}"
    first, last = max(citation.start - SHOWN_AROUND, 0), citation.end + SHOWN_AROUND
    if is_markdown := document.metadata.get("type") in ("md", "markdown"):
        if first:  # a fence may be open there, but none is at a heading
            first = next((h.start for h in document.headings if first <= h.start <= citation.start), first)
        html = marked_markdown(text[first:last], citation.start - first, citation.end - first, id)
    else:
        mark = f'<mark id="{id}">{escape(text[citation.start : citation.end])}</mark>'
        html = f"{escape(text[first : citation.start])}{mark}{escape(text[citation.end : last])}"
    kind, name = "markdown" if is_markdown else "plain", escape(citation.document)
    html = f"{'…' if first else ''}{html}{'…' if last < len(text) else ''}"
    html = f'<b>{name}</b><div class="{kind}" role="region" aria-label="{name}" tabindex="0">{html}</div>'
    return f'<section class="folio-document">{html}</section>'


def _link(number: int, label: str) -> str:
    return f'<a href="#folio-citation-{number}" target="_self">{escape(label)}</a>'


def _hint(text: str) -> str:
    return f'<div class="folio-answer"><div class="folio-hint">{escape(text)}</div></div>'
