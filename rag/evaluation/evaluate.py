"""Evaluation of retrieval in each mode, of refusals and of answers, with 95 % intervals.

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
from ...evaluation.bootstrap import mean, ratio
from ..answering import AnswerGenerator, Citation, Passage, Sentence, answer
from ..database import storage_errors
from ..documents import Document, Hit
from ..generators import ExtractiveGenerator
from ..refusal import BEST_PASSAGES, Features, check_enough, features, measure, store_threshold, threshold_of
from ..retrieval import MODES, Retriever
from ..store import Store
from ..sync import Sync
from .datasets import Dataset, Place, Question, load_dataset
from .known_items import QUESTIONS, known_items
from .report import EvaluationReport, Metrics

KNOWN_ITEMS, QUOTE = "known-items", "quote"
DEPTH = 100  # passages to search for: several may come from one of the first ten documents
CUTOFFS = (1, 5, 10)
FOUND, NOTHING, RIGHT = "passages found", "no passages", "the right passage"  # for a generator; two baselines

Progress = Callable[[str], None]
Kinds = tuple[list[Features], list[Features], list[Features]]  # of questions: answerable, unanswerable, marked as such


def evaluate(
    retriever: Retriever,
    source: str | Path | Dataset,
    modes: Sequence[str],
    questions: int | None,
    generator: AnswerGenerator | str | None,
    calibrate: bool,
    progress: Progress | None,
) -> EvaluationReport:
    """Evaluate an index; `Rag.evaluate` describes the arguments."""
    say = progress or (lambda line: None)
    modes = list(dict.fromkeys(modes))  # a repeated mode would count each question twice
    if not modes or not set(modes) <= set(MODES):
        raise ValueError(f"modes is {modes!r}; choose from {', '.join(MODES)}.")
    if questions is not None and questions < 1:
        raise ValueError(f"questions is {questions}; give the number of questions to ask, at least 1.")
    refusing = next((mode for mode in ("hybrid", "dense") if mode in modes), None)  # refusal needs cosines
    if calibrate and refusing is None:
        raise ValueError(f"Calibration needs hybrid or dense among the modes, which are {', '.join(modes)}.")
    if isinstance(generator, str) and generator != QUOTE:
        raise ValueError(f'generator is {generator!r}; give "{QUOTE}" or load_generator(NAME).')
    with _prepare(retriever, source, questions, say) as (searcher, dataset):
        answerable = sum(question.answerable for question in dataset.questions)
        if calibrate:  # fails before minutes of searching
            if searcher.store.catalog.counts()[0] < 2:
                raise ValueError("--calibrate needs an index of at least two documents.")
            check_enough(answerable, len(dataset.questions))
        values: dict[str, dict[str, list[float]]] = {}  # name of a metric -> mode -> a value for each question
        kinds: Kinds = [], [], []
        for number, question in enumerate(dataset.questions, 1):
            for mode in modes:
                hits = searcher.search(question.text, DEPTH, mode, None)
                if question.answerable:
                    for name, value in retrieval_metrics(hits, question, dataset).items():
                        values.setdefault(name, {}).setdefault(mode, []).append(value)
                if mode == refusing:
                    _add_features(kinds, hits, question, mode, searcher, dataset)
            say(f"{number:,} of {len(dataset.questions):,} questions")
        refusal, notes, answers = None, [], {}
        try:
            refusal = measure(*kinds, threshold_of(retriever.store.catalog)) if refusing else None
        except ValueError as error:
            if calibrate:
                raise
            notes = [str(error)]
        if generator is not None:
            writer = ExtractiveGenerator(searcher.store.embedder) if isinstance(generator, str) else generator
            answers = answer_quality(searcher, dataset, writer, refusing or modes[0], say)
        documents, chunks = searcher.store.catalog.counts()
    if calibrate and refusal:
        store_threshold(retriever.store.catalog, refusal.threshold)
    embedder = retriever.store.catalog.setting("embedder")
    metrics = {name: {mode: mean(name, each) for mode, each in row.items()} for name, row in values.items()}
    return EvaluationReport(dataset.name, embedder, documents, chunks, answerable, metrics, refusal, answers, notes)


def _add_features(
    kinds: Kinds, hits: list[Hit], question: Question, mode: str, retriever: Retriever, dataset: Dataset
) -> None:
    """Add the features of a question twice: with the documents that answer it, if they were found, and without them."""
    catalog, embedder, article = retriever.store.catalog, retriever.store.embedder, dataset.article
    answerable, unanswerable, marked = kinds
    if not question.answerable:
        marked.append(features(question.text, hits, catalog, embedder))
    elif not question.relevant.keys().isdisjoint(ranked_places(hits[:BEST_PASSAGES], question, dataset)):
        # If the answer was not found, a refusal is right.
        answerable.append(features(question.text, hits, catalog, embedder))
    answering = {article(document) for document, _ in question.relevant}
    others = [hit for hit in hits if article(hit.document) not in answering]
    if len(others) < BEST_PASSAGES:
        names = [name for name, _ in catalog.document_hashes() if article(name) in answering]
        others = retriever.search(question.text, DEPTH, mode, {"document": {"$nin": names}})
    if others:  # there may be no other document
        unanswerable.append(features(question.text, others, catalog, embedder))


def retrieval_metrics(hits: list[Hit], question: Question, dataset: Dataset) -> dict[str, float]:
    """Compute the metrics of one question; modes are compared by the first one."""
    ranking, relevant = ranked_places(hits, question, dataset), question.relevant
    found = {"nDCG@10": ndcg(ranking, relevant, 10)}
    found |= {f"recall@{k}": len(relevant.keys() & ranking[:k]) / len(relevant) for k in CUTOFFS}
    found["MRR@10"] = next((1 / rank for rank, place in enumerate(ranking[:10], 1) if place in relevant), 0.0)
    if spans := question.spans:  # a passage must contain a whole one
        complete = [any(hit.document == n and hit.start <= a and b <= hit.end for n, a, b in spans) for hit in hits]
        found |= {f"span recall@{k}": float(any(complete[:k])) for k in CUTOFFS}
    return found


def ndcg(ranking: Sequence[Hashable], relevant: Mapping, k: int) -> float:
    """Compute the gain of the first `k` places, discounted by rank, divided by that of the best possible ranking."""

    def gain(grades: Iterable[float]) -> float:
        return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, 1))

    return gain(relevant.get(name, 0) for name in ranking[:k]) / gain(sorted(relevant.values(), reverse=True)[:k])


def ranked_places(hits: Iterable[Hit], question: Question, dataset: Dataset) -> list[Place]:
    """List the sections of passages, each at its best rank. A passage in several sections counts for a relevant one."""
    found: dict[Place, None] = {}
    for hit in hits:
        places = dataset.places(hit)
        right = [place for place in places if place in question.relevant]
        found |= dict.fromkeys(right or places[:1])
    return list(found)


def answer_quality(
    retriever: Retriever, dataset: Dataset, generator: AnswerGenerator, mode: str, say: Progress
) -> Metrics:
    """Answer all questions; return name -> what the generator was given -> metric.

    Exact match and F1 are SQuAD's, with a refusal as an empty answer; they need a dataset with answers.
    """
    catalog, answers = retriever.store.catalog, []
    predictions: dict[str, list[str]] = {FOUND: [], NOTHING: [], RIGHT: []}
    has_answers = any(question.answers for question in dataset.questions)
    for number, question in enumerate(dataset.questions, 1):
        answers.append(found := answer(retriever, question.text, generator, mode=mode))
        if has_answers:
            name, section = next(iter(question.relevant))
            document = catalog.document(name)
            starts = [*dataset.sections.get(name, [0]), len(document.text)]
            right = Passage.of(document, starts[section], starts[section + 1])
            predictions[FOUND].append(without_citations(found.sentences))
            for given, passages in ((NOTHING, ()), (RIGHT, (right,))):
                sentences: list[Sentence] = []
                generator.write(question.text, passages, sentences.append)
                predictions[given].append(without_citations(sentences))
        say(f"{number:,} of {len(dataset.questions):,} answers")
    metrics: Metrics = {}
    for given, texts in predictions.items() if has_answers else ():
        for metric in answer_metrics([question.answers for question in dataset.questions], texts):
            metrics.setdefault(metric.name, {})[given] = metric
    metrics["answered"] = {FOUND: mean("answered", [not found.refused for found in answers])}
    valid = [[catalog.document(c.document).text[c.start : c.end] == c.quote for c in a.citations] for a in answers]
    cited = [[sentence.is_cited for sentence in found.sentences] for found in answers]
    for name, rows in (("citations that hold", valid), ("sentences with a citation", cited)):
        if any(rows):  # a share of none is undefined
            metrics[name] = {FOUND: ratio(name, list(map(sum, rows)), list(map(len, rows)))}
    return metrics


def without_citations(sentences: Sequence[Sentence]) -> str:
    """Join the text of sentences without their citations; keep quotations only if there is no other text."""
    claims, quotations = [], []
    for sentence in sentences:
        for part, following in zip(sentence.parts, [*sentence.parts[1:], None], strict=True):
            if isinstance(part, str):
                is_quotation = part.lstrip().startswith('"') and isinstance(following, Citation)
                (quotations if is_quotation else claims).append(part.strip())
    return " ".join(claims if re.search(r"\w", "".join(claims)) else quotations)


@contextmanager
def _prepare(
    retriever: Retriever, source: str | Path | Dataset, count: int | None, say: Progress
) -> Iterator[tuple[Retriever, Dataset]]:
    """Load a dataset; yield it after the retriever of an index that has its documents and no others."""

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
        number = f"{len(dataset.questions):,} questions of {dataset.name}"
        raise ValueError(f"None of the {number} has an answer: ask more questions, or give other data.")
    if dataset.documents is None:
        names = {document for question in dataset.questions for document, _ in question.relevant}
        if missing := sorted(name for name in names if store.catalog.document_hash(name) is None):
            needs = f"{len(missing):,} documents of {dataset.name}, such as {missing[0]!r}"
            raise ValueError(f"{store.path} lacks {needs}: sync them, or give a corpus.jsonl.")
    else:
        store.create()
        hashes = {document.name: document.hash for document in dataset.documents}
        if others := [name for name, hash in store.catalog.document_hashes() if hashes.get(name) != hash]:
            has = f"documents that are not in {dataset.name}, such as {others[0]!r}"  # and which it would find as well
            raise ValueError(f"{store.path} has {has}: give a new folder as --index.")
        index(store, dataset.documents)
    yield retriever, dataset
