"""The tab of `folio app` that answers from documents which are dropped on it.

What is dropped is indexed in a folder of its own for each visit. A document is known by its name alone and shown from
the index, so no other file can be. All text is escaped.
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

from transformers import PreTrainedTokenizerBase

from ...serving.generator import TextGenerator
from .markdown import marked_markdown
from .parts import EVENT, asked, box, check, gr, one_line_errors

SHOWN_AROUND = 20_000  # characters of a document before and after what is cited
LABEL = "Documents: PDF, Office, HTML, text, ..."
HINT = "Drop files above, ask, and click a citation to see where it stands. The examples ask Python's manual."
NUMBER = re.compile(r"\[(\d+)\]")  # of a citation; nothing else in an answer looks like it
QUESTIONS = ["How does a for loop end early?", "What does a finally clause do?", "What is a context manager?"]


class Visit:
    """What one visitor has dropped, indexed. `close` forgets it."""

    def __init__(self) -> None:
        from ...rag import Rag

        self.folder = tempfile.TemporaryDirectory(prefix="folio-app-", ignore_cleanup_errors=True)
        self.rag = Rag.open(self.folder.name, embedder=_embedder())
        self.is_empty = True
        self.dropped: set[Path] = set()
        self.lock = threading.RLock()

    def index(self, paths: list[str]) -> str:
        """Make the index that of these files, and say what it has now."""
        from ...rag.readers.pool import ReaderPool
        from ...rag.sources import read_file

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
            return self.take(documents, failed)

    def take(self, documents: list, left_out: Sequence[str] = ()) -> str:
        with self.lock:
            failed = self.rag.sync(documents, delete_missing=True).failed
            found = self.rag.verify()
            self.is_empty = not found.chunks
        said = f"{_number(found.documents, 'document')} in {_number(found.chunks, 'passage')}."
        left_out = [*left_out, *(f"{name} {why}" for name, why in failed.items())]
        return said + "".join(f" Left out: {each}." for each in left_out)

    def close(self) -> None:
        with self.lock:
            self.is_empty = True
            self.rag.close()
            self.folder.cleanup()


@cache
def _embedder():
    """One for all visitors. It is not fetched from anywhere."""
    from ...jobs.extras import missing_extra
    from ...rag.embedding import MINILM_PACKAGE, load_embedder, packaged_minilm

    if packaged_minilm() is None:
        raise missing_extra("rag", "The default embedder", MINILM_PACKAGE)
    return load_embedder()


def _manual() -> list:
    """What Python's manual, which every Python has, says of some statements."""
    from pydoc_data.topics import topics

    from ...rag import Document

    return [Document(f"python-manual-{name}.txt", topics[name]) for name in ("for", "while", "try", "with")]


def documents_tab(generator: TextGenerator, tokenizer: PreTrainedTokenizerBase, sampling: dict) -> Callable:
    """Draw the tab; returns what forgets a visit (`gr.Request`), with the files that it alone has dropped."""
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
            if visit is None or visit.is_empty:  # what was dropped may be gone again
                if question not in QUESTIONS:
                    raise ValueError("There is no document to ask: drop a file first.")
                visit = await visit_of(request)
                await asyncio.to_thread(visit.take, _manual())
            writer = None
            if by_model:
                from ...rag import ModelWriter

                writer = ModelWriter(generator, tokenizer, **dict(zip(sampling, values, strict=True)))
            async with contextlib.aclosing(_answering(visit, question, writer)) as grown:
                async for html in grown:
                    yield html

    files, said = gr.File(file_count="multiple", label=LABEL, height=150), gr.HTML()
    question, out = box("A question to the documents", container=False), gr.HTML(_hint(HINT), render=False)
    label, asks_model = "The model writes (else the documents are quoted)", bool(tokenizer.chat_template)
    by_model = gr.Checkbox(False, label=label, visible=asks_model, container=False, elem_classes="folio-by-model")
    files.change(index, files, [said, out], **EVENT)
    asked(ask, question, ["Ask", "Stop"], [by_model, *sampling.values()], [out], QUESTIONS, [_hint(HINT)])
    out.render()
    return forget


class _Left(Exception):
    """Whoever asked has gone."""


async def _answering(visit: Visit, question: str, writer) -> AsyncIterator[str]:
    """The answer so far, again and again, and at last with its citations."""
    loop, pieces, left = asyncio.get_running_loop(), asyncio.Queue(), threading.Event()

    def stream(piece: str) -> None:
        if left.is_set():
            raise _Left
        loop.call_soon_threadsafe(pieces.put_nowait, piece)

    def work():
        try:
            return visit.rag.answer(question, writer, stream=stream)
        except _Left:
            return None
        finally:
            loop.call_soon_threadsafe(pieces.put_nowait, None)

    working, text = asyncio.ensure_future(asyncio.to_thread(work)), ""
    try:
        while (piece := await pieces.get()) is not None:
            text += piece
            yield f'<div class="folio-answer"><div class="text">{escape(text)}</div></div>'
        answer = await working
        yield await asyncio.to_thread(answer_html, answer, visit.rag.document)
    finally:
        left.set()
        if writer is not None:
            writer.stop()


def answer_html(answer, document_of: Callable) -> str:
    """An answer, or the nearest passages, whose citations, clicked, show their documents with what is cited marked."""
    if answer.refused:
        nearest = " The nearest passages, though none may answer it:" if answer.nearest else ""
        text = f'<div class="folio-hint">{escape(f"No answer: {answer.reason}.{nearest}")}</div>'
        return _cited_html(text, answer.nearest, document_of)
    text = NUMBER.sub(lambda found: _link(int(found[1]), found[0]), escape(answer.text.strip()))
    return _cited_html(f'<div class="text">{text}</div>', answer.citations, document_of)


def _cited_html(html: str, citations: Sequence, document_of: Callable) -> str:
    from ...rag.quotations import shown

    items, documents = [], []
    for number, citation in enumerate(citations, 1):
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


def _number(count: int, of: str) -> str:
    return f"{count:,} {of}" if count == 1 else f"{count:,} {of}s"


def _hint(text: str) -> str:
    return f'<div class="folio-answer"><div class="folio-hint">{escape(text)}</div></div>'
