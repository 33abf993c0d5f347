"""Evaluation: what an index finds in which mode, and what it refuses, with 95 % intervals.

Known items are asked of a copy of the index without the sentences that are asked for; a data set with documents of its
own, of an index that has nothing else.

Sources: nDCG as trec_eval and BEIR count it, K. Järvelin and J. Kekäläinen, "Cumulated gain-based evaluation of IR
techniques", 2002, with the grades themselves as gains.
"""

import math
import random
import re
import tempfile
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from ...evaluation.answers import answer_metrics
from ...evaluation.bootstrap import Metric, mean, ratio
from ..answering import Citation, Passage, Sentence, Writer, answer
from ..database import storage_errors
from ..documents import Document, Hit
from ..refusal import BEST, Features, check_enough, features, measure, store_threshold, threshold_of
from ..retrieval import MODES, Retriever, check
from ..store import Store
from ..sync import Sync
from ..writers import QuoteWriter
from .datasets import Dataset, Place, Question, load_dataset
from .known_items import QUESTIONS, known_items
from .report import EvaluationReport

KNOWN_ITEMS, QUOTE = "known-items", "quote"
DEPTH = 100  # passages that are looked at; of the first ten documents, several may have more than one
CUTOFFS = (1, 5, 10)
FOUND, NOTHING, RIGHT = "passages found", "no passages", "the right passage"  # what a writer is given; two baselines

Say = Callable[[str], None]
Kinds = tuple[list[Features], list[Features], list[Features]]  # of questions: answerable, unanswerable, marked as such


def evaluate(
    retriever: Retriever,
    source: str | Path | Dataset,
    modes: Sequence[str],
    questions: int | None,
    generator: Writer | str | None,
    calibrate: bool,
    progress: Say | None,
) -> EvaluationReport:
    """What `Rag.evaluate` does."""
    say = progress or (lambda line: None)
    modes = list(dict.fromkeys(modes))  # else a question would count twice
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown or not modes:
        raise ValueError(f"modes is {modes!r}; choose from {', '.join(MODES)}.")
    if questions is not None and questions < 1:
        raise ValueError(f"questions is {questions}; give how many to ask, at least 1.")
    refusing = next((mode for mode in ("hybrid", "dense") if mode in modes), None)  # refusal looks at cosines
    if calibrate and refusing is None:
        raise ValueError("Calibration needs cosines: let hybrid or dense be among the modes.")
    if isinstance(generator, str) and generator != QUOTE:
        raise ValueError(f'generator is {generator!r}; give "{QUOTE}" or a writer: load_writer(NAME).')
    with _prepared(retriever, source, questions, say) as (judged, dataset):
        answerable = sum(question.answerable for question in dataset.questions)
        if calibrate and judged.store.catalog.counts()[0] < 2:  # said before minutes of asking
            raise ValueError("Without the document that answers there is no other to ask: calibrate on two at least.")
        if calibrate:
            check_enough(answerable, len(dataset.questions))
        values: dict[str, dict[str, list[float]]] = {}  # metric -> mode -> one a question
        kinds: Kinds = [], [], []
        for number, question in enumerate(dataset.questions, 1):
            for mode in modes:
                check(question.text, DEPTH, mode, None)
                hits = judged.search(question.text, DEPTH, mode, None)
                if question.answerable:
                    for name, value in scores(hits, question, dataset).items():
                        values.setdefault(name, {}).setdefault(mode, []).append(value)
                if mode == refusing:
                    _look_at(hits, question, mode, judged, dataset, kinds)
            say(f"{number:,} of {len(dataset.questions):,} questions")
        refusal, notes, answers = None, [], {}
        try:
            refusal = measure(*kinds, threshold_of(retriever.store.catalog)) if refusing else None
        except ValueError as error:
            if calibrate:
                raise
            notes = [str(error)]
        if generator is not None:
            writer = QuoteWriter(judged.store.embedder) if isinstance(generator, str) else generator
            answers = judge_answers(judged, dataset, writer, refusing or modes[0], say)
        documents, chunks = judged.store.catalog.counts()
    if calibrate and refusal:
        store_threshold(retriever.store.catalog, refusal.threshold)
    embedder = retriever.store.catalog.meta.get("embedder")
    figures = {name: {mode: mean(name, each) for mode, each in row.items()} for name, row in values.items()}
    return EvaluationReport(dataset.name, embedder, documents, chunks, answerable, figures, refusal, answers, notes)


def _look_at(
    hits: list[Hit], question: Question, mode: str, retriever: Retriever, dataset: Dataset, kinds: Kinds
) -> None:
    """Add the features of a question with its answer, without what answers it, and of one that nothing answers."""
    catalog, embedder, article = retriever.store.catalog, retriever.store.embedder, dataset.article
    answerable, unanswerable, marked = kinds
    if not question.answerable:
        marked.append(features(question.text, hits, catalog, embedder))
    elif not question.relevant.keys().isdisjoint(ranked_places(hits[:BEST], question, dataset)):
        # Only of these: where the answer was not found, it is right to refuse.
        answerable.append(features(question.text, hits, catalog, embedder))
    answering = {article(document) for document, _ in question.relevant}
    others = [hit for hit in hits if article(hit.document) not in answering]
    if len(others) < BEST:
        names = [name for name, _ in catalog.document_hashes() if article(name) in answering]
        others = retriever.search(question.text, DEPTH, mode, {"document": {"$nin": names}})
    if others:  # else there is no other document
        unanswerable.append(features(question.text, others, catalog, embedder))


def scores(hits: list[Hit], question: Question, dataset: Dataset) -> dict[str, float]:
    """The figures of one question; the first one is what modes are compared by."""
    ranking = ranked_places(hits, question, dataset)
    found = {"nDCG@10": ndcg(ranking, question.relevant, 10)}
    found |= {f"recall@{k}": recall(ranking, question.relevant, k) for k in CUTOFFS}
    found["MRR@10"] = reciprocal_rank(ranking, question.relevant, 10)
    if question.spans:
        found |= {f"span recall@{k}": float(has_span(hits[:k], question)) for k in CUTOFFS}
    return found


def recall(ranking: Sequence[Hashable], relevant: Mapping, k: int) -> float:
    """The share of what is relevant that the first `k` have."""
    return len(set(ranking[:k]) & set(relevant)) / len(relevant)


def reciprocal_rank(ranking: Sequence[Hashable], relevant: Mapping, k: int) -> float:
    """One over the rank of the first relevant one of `k`, or 0."""
    return next((1 / rank for rank, name in enumerate(ranking[:k], 1) if name in relevant), 0.0)


def ndcg(ranking: Sequence[Hashable], relevant: Mapping, k: int) -> float:
    """The gain of the first `k`, discounted by rank, over that of the best ranking there is."""

    def gain(grades: Iterable[float]) -> float:
        return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, 1))

    best = sorted(relevant.values(), reverse=True)
    return gain(relevant.get(name, 0) for name in ranking[:k]) / gain(best[:k])


def ranked_places(hits: Iterable[Hit], question: Question, dataset: Dataset) -> list[Place]:
    """The sections that passages stand for, each at its best rank. A passage of several stands for a relevant one."""
    found: dict[Place, None] = {}
    for hit in hits:
        places = dataset.places(hit)
        right = [place for place in places if place in question.relevant]
        found |= dict.fromkeys(right or places[:1])
    return list(found)


def has_span(hits: Iterable[Hit], question: Question) -> bool:
    """Whether one of the passages has the whole of an answer's span."""
    return any(
        hit.document == document and hit.start <= start and end <= hit.end
        for hit in hits
        for document, start, end in question.spans
    )


def judge_answers(
    retriever: Retriever, dataset: Dataset, writer: Writer, mode: str, say: Callable[[str], None]
) -> dict[str, dict[str, Metric]]:
    """Ask all questions: metric -> what the writer was given -> figure.

    Exact match and F1 are SQuAD's, a refusal being an empty answer; they need a data set with answers.
    """
    catalog = retriever.store.catalog
    answered, valid, cited = [], [], []  # (number, of how many), for each question
    predictions: dict[str, list[str]] = {FOUND: [], NOTHING: [], RIGHT: []}
    has_answers = any(question.answers for question in dataset.questions)

    def written(question: Question, *passages: Passage) -> str:
        sentences: list[Sentence] = []
        writer.write(question.text, passages, sentences.append)
        return said(sentences)

    for number, question in enumerate(dataset.questions, 1):
        found = answer(retriever, question.text, writer, mode=mode)
        answered.append(not found.refused)
        cites = [(catalog.document(each.document).text[each.start : each.end], each.quote) for each in found.citations]
        valid.append((sum(text == quote for text, quote in cites), len(cites)))
        cited.append((sum(each.is_cited for each in found.sentences), len(found.sentences)))
        if has_answers:
            predictions[FOUND].append(said(found.sentences))
            predictions[NOTHING].append(written(question))
            name, section = next(iter(question.relevant))
            document = catalog.document(name)
            starts = [*dataset.sections.get(name, [0]), len(document.text)]
            right = Passage.of(document, starts[section], starts[section + 1])
            predictions[RIGHT].append(written(question, right))
        say(f"{number:,} of {len(dataset.questions):,} answers")
    figures: dict[str, dict[str, Metric]] = {}
    if has_answers:
        references = [question.answers for question in dataset.questions]
        for given, texts in predictions.items():
            for metric in answer_metrics(references, texts):
                figures.setdefault(metric.name, {})[given] = metric
    figures["answered"] = {FOUND: mean("answered", answered)}
    for name, counted in (("citations that hold", valid), ("sentences with a citation", cited)):
        if any(total for _, total in counted):  # of none, no share holds
            figures[name] = {FOUND: ratio(name, *zip(*counted, strict=True))}
    return figures


def said(sentences: Sequence[Sentence]) -> str:
    """What sentences say, without their citations; quotations alone if they say nothing else."""
    claims, quotations = [], []
    for sentence in sentences:
        for part, following in zip(sentence.parts, [*sentence.parts[1:], None], strict=True):
            if isinstance(part, str):
                is_quotation = part.lstrip().startswith('"') and isinstance(following, Citation)
                (quotations if is_quotation else claims).append(part.strip())
    return " ".join(claims if re.search(r"\w", "".join(claims)) else quotations)


@contextmanager
def _prepared(
    retriever: Retriever, source: str | Path | Dataset, count: int | None, say: Say
) -> Iterator[tuple[Retriever, Dataset]]:
    """A data set, and the retriever of an index that has its documents and no others."""

    def index(store: Store, documents: list[Document]) -> None:
        Sync(store, False, "text", lambda report: say(f"{report.added:,} documents indexed")).run(documents)

    store = retriever.store
    if source == KNOWN_ITEMS:
        dataset = known_items((document for _, document in store.catalog.documents()), count or QUESTIONS)
        with (
            tempfile.TemporaryDirectory(prefix="folio-rag-eval-") as folder,
            closing(Store(Path(folder), None, store.embedder)) as copy,
            storage_errors(copy.path),
        ):
            copy.create()
            copy.catalog.copy_vectors(store.catalog.path, *store.catalog.model)
            index(copy, dataset.documents or [])
            store_threshold(copy.catalog, threshold_of(store.catalog))
            yield Retriever(copy, retriever.reranker, retriever.rewrite), dataset
        return
    dataset = source if isinstance(source, Dataset) else load_dataset(source)
    if count is not None and count < len(dataset.questions):
        chosen = sorted(random.Random(0).sample(range(len(dataset.questions)), count))
        dataset = replace(dataset, questions=[dataset.questions[number] for number in chosen])
    if not any(question.answerable for question in dataset.questions):
        raise ValueError(
            f"Of the {len(dataset.questions):,} questions of {dataset.name} none has an answer, so there is nothing "
            "to find: ask more of them, or give others."
        )
    _check_documents(store, dataset)
    if dataset.documents is not None:
        index(store, dataset.documents)
    yield retriever, dataset


def _check_documents(store: Store, dataset: Dataset) -> None:
    """Refuse an index without the documents that are asked for, or with others, which would be found as well."""
    if dataset.documents is None:
        asked = {document for question in dataset.questions for document, _ in question.relevant}
        unknown = sorted(name for name in asked if store.catalog.document_hash(name) is None)
        if unknown:
            raise ValueError(
                f"{dataset.name} names {len(unknown):,} documents that {store.path} does not have, {unknown[0]!r} "
                "for instance: sync them, or give a corpus.jsonl."
            )
        return
    store.create()
    hashes = {document.name: document.hash for document in dataset.documents}
    others = [name for name, hash in store.catalog.document_hashes() if hashes.get(name) != hash]
    if others:
        raise ValueError(
            f"{store.path} has other documents than {dataset.name}, {others[0]!r} for instance: give a folder of "
            "its own as --index, which will be made."
        )
