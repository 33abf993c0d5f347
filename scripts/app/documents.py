"""The tab of `folio app` that answers from documents which are dropped on it.

What is dropped is indexed in a folder of its own for each visit. A document is known by its name alone and shown from
the index, so no other file can be. All text is escaped.
"""

import asyncio
import contextlib
import tempfile
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cache
from html import escape
from pathlib import Path, PurePath

from transformers import PreTrainedTokenizerBase

from ...serving.generator import TextGenerator
from .parts import EVENT, box, button, check, gr, one_line_errors

SHOWN_AROUND = 20_000  # characters of a document before and after what is cited
LABEL = "Documents: text, HTML, PDF, Word, PowerPoint, Excel, OpenDocument, EPUB, mail, notebooks, ..."
HINT = "Drop files above, ask, and click a citation to see where it stands."

CSS = """
.folio-answer { line-height: 1.6; }
.folio-answer .text { white-space: pre-wrap; overflow-wrap: anywhere; padding: 12px 16px; border-radius: 14px;
    background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary); }
.folio-answer .hint { color: var(--body-text-color-subdued); font-size: 0.9rem; padding: 6px 2px; }
.folio-answer a { color: var(--color-accent); text-decoration: none; font-weight: 600; }
.folio-answer ol { list-style: none; margin: 10px 0; padding: 0; }
.folio-answer li { margin: 4px 0; }
.folio-answer li a { display: block; padding: 6px 12px; border-radius: 8px; font-weight: 400; overflow: hidden;
    white-space: nowrap; text-overflow: ellipsis; text-align: left; border: 1px solid var(--border-color-primary); }
.folio-answer li a:hover, .folio-answer li a:focus { border-color: var(--color-accent); }
.folio-document { display: none; }
.folio-document:has(mark:target) { display: block; }
.folio-document b { display: block; margin: 8px 0 4px; }
.folio-document div { max-height: 420px; overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere;
    padding: 12px 16px; border-radius: 8px; border: 1px solid var(--border-color-primary); font-size: 0.9rem; }
.folio-document mark { background: rgba(13, 148, 136, 0.28); color: inherit; border-radius: 3px; padding: 1px 0;
    scroll-margin: 140px; }
"""


class Visit:
    """What one visitor has dropped, indexed. `close` forgets it."""

    def __init__(self) -> None:
        from ...rag import Rag

        self.folder = tempfile.TemporaryDirectory(prefix="folio-app-", ignore_cleanup_errors=True)
        self.rag = Rag.open(self.folder.name, embedder=_embedder())
        self.is_empty, self.is_closed = True, False
        self.dropped: set[Path] = set()
        self.lock = threading.Lock()

    def index(self, paths: list[str]) -> str:
        """Make the index that of these files, and say what it has now."""
        from ...rag.readers.pool import ReaderPool
        from ...rag.sources import read_file

        documents, failed, seen = [], [], Counter()
        with contextlib.closing(ReaderPool()) as pool:
            for path in map(Path, paths):  # Gradio has refused what was not dropped
                seen[path.name] += 1
                name = path.name if seen[path.name] == 1 else f"{path.stem} ({seen[path.name]}){path.suffix}"
                try:
                    documents += pool.read(PurePath(name), read_file(path, "").data, "text")
                except (ValueError, OSError, ImportError) as error:
                    failed.append(f"{name} {error}")
        failed += [f"{name} {why}" for name, why in self.rag.sync(documents, delete_missing=True).failed.items()]
        found = self.rag.verify()
        self.is_empty = not found.chunks
        said = f"{_number(found.documents, 'document')} in {_number(found.chunks, 'passage')}."
        return said + "".join(f" Left out: {each}." for each in failed)

    def close(self) -> None:
        with self.lock:
            self.is_empty = self.is_closed = True
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


def documents_tab(generator: TextGenerator, tokenizer: PreTrainedTokenizerBase, sampling: dict) -> Callable:
    """Draw the tab; returns what forgets a visit (`gr.Request`), with the files that it alone has dropped."""
    visits: dict[str | None, Visit] = {}

    def forget(request: gr.Request) -> None:
        if (visit := visits.pop(request.session_hash, None)) is not None:
            visit.close()
            for path in visit.dropped.difference(*(other.dropped for other in visits.values())):
                path.unlink(missing_ok=True)

    def index_locked(visit: Visit, paths: list[str]) -> str:
        with visit.lock:
            visit.dropped.update(map(Path, paths))
            return visit.index(paths)

    async def index(paths: list[str] | None, visit: Visit | None, request: gr.Request) -> tuple[Visit | None, str, str]:
        with one_line_errors():
            if not paths and visit is None:
                return None, "", _hint(HINT)
            if visit is None or visit.is_closed:  # a page that has lost the server for a while
                visit = visits[request.session_hash] = await asyncio.to_thread(Visit)
            return visit, _hint(await asyncio.to_thread(index_locked, visit, paths or [])), _hint(HINT)

    async def ask(question: str, by_model: bool, visit: Visit | None, *values) -> AsyncIterator[str]:
        with one_line_errors():
            check(question, "question")
            if visit is None or visit.is_empty:  # what was dropped may be gone again
                raise ValueError("There is no document to ask: drop a file first.")
            yield _hint("…")
            writer = None
            if by_model:
                from ...rag import ModelWriter

                writer = ModelWriter(generator, tokenizer, **dict(zip(sampling, values, strict=True)))
            async with contextlib.aclosing(_answering(visit, question, writer)) as grown:
                async for html in grown:
                    yield html

    visit = gr.State(None)
    files = gr.File(file_count="multiple", label=LABEL, height=150)
    said = gr.HTML()
    with gr.Row():
        question = box("A question to the documents", scale=8, container=False)
        send, stop = button("Ask", variant="primary"), button("Stop")
    label = "The model writes (else the documents are quoted)"
    by_model = gr.Checkbox(False, label=label, visible=bool(tokenizer.chat_template), container=False)
    out = gr.HTML(_hint(HINT), min_height=260)
    files.change(index, [files, visit], [visit, said, out], **EVENT)
    inputs = [question, by_model, visit, *sampling.values()]
    running = gr.on([question.submit, send.click], ask, inputs, out, show_progress="minimal", **EVENT)
    stop.click(None, cancels=running, api_visibility="private")
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
    from ...rag.answering import UNCITED

    if answer.refused:
        nearest = " The nearest passages, though none may answer it:" if answer.nearest else ""
        text = f'<div class="hint">{escape(f"No answer: {answer.reason}.{nearest}")}</div>'
        return _cited_html(text, answer.nearest, document_of)
    text = ""
    numbers = {citation: number for number, citation in enumerate(answer.citations, 1)}
    for sentence in answer.sentences:
        for part in sentence.parts:
            text += escape(part) if isinstance(part, str) else _link(numbers[part], f"[{numbers[part]}]")
        if not sentence.is_cited:
            text = f"{text.rstrip()} {UNCITED}"
    return _cited_html(f'<div class="text">{text.strip()}</div>', answer.citations, document_of)


def _cited_html(html: str, citations: Sequence, document_of: Callable) -> str:
    from ...rag.quotations import shown

    items, documents = [], []
    for number, citation in enumerate(citations, 1):
        page = f", page {citation.page}" if citation.page else ""
        label = f"[{number}] {citation.document}{page}: {shown(citation.quote)}"
        items.append(f"<li>{_link(number, label)}</li>")
        documents.append(_document_html(number, citation, document_of(citation.document).text))
    return f'<div class="folio-answer">{html}<ol>{"".join(items)}</ol>{"".join(documents)}</div>'


def _document_html(number: int, citation, text: str) -> str:
    first, last = max(citation.start - SHOWN_AROUND, 0), citation.end + SHOWN_AROUND
    before = ("…" if first else "") + text[first : citation.start]
    after = text[citation.end : last] + ("…" if last < len(text) else "")
    mark = f'<mark id="folio-citation-{number}">{escape(text[citation.start : citation.end])}</mark>'
    shown = f"<b>{escape(citation.document)}</b><div>{escape(before)}{mark}{escape(after)}</div>"
    return f'<section class="folio-document">{shown}</section>'


def _link(number: int, label: str) -> str:
    return f'<a href="#folio-citation-{number}" target="_self">{escape(label)}</a>'


def _number(count: int, of: str) -> str:
    return f"{count:,} {of}" if count == 1 else f"{count:,} {of}s"


def _hint(text: str) -> str:
    return f'<div class="folio-answer"><div class="hint">{escape(text)}</div></div>'
