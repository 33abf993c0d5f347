"""`Rag.evaluate`: metrics of retrieval, refusals and answers; the index stays unchanged."""

import json
import random
from dataclasses import replace

import pytest
from embedders import WordEmbedder

from foliogpt.evaluation.bootstrap import mean
from foliogpt.rag import Citation, Document, Rag, Sentence
from foliogpt.rag.evaluation.datasets import Dataset, Question
from foliogpt.rag.evaluation.report import EvaluationReport
from foliogpt.rag.refusal import DEFAULT_THRESHOLD, Features, Threshold, measure, threshold_of

THINGS = "moon sun river stone tree bird fish king queen castle sword ship sea wind rain snow fire gold silver bread"


def texts(count: int = 40):
    chance = random.Random(0)
    for number in range(count):
        topic = f"topic{number}"
        said = [f"The {topic} and {' and '.join(chance.sample(THINGS.split(), 4))} are known." for _ in range(8)]
        yield Document(f"d{number}", " ".join(said))


@pytest.fixture
def many(rag):
    rag.sync(texts())
    return rag


def tale() -> Dataset:
    """Return a question with an answer, one without, and the text."""
    text = "The moon is silver. The sun is gold. The king sleeps in the castle."
    start = text.index("castle")
    questions = [
        Question("1", "Where does the king sleep?", {("tale", 0): 1}, (("tale", start, start + 6),), ("castle",)),
        Question("2", "Where does the queen sleep?", {("tale", 0): 1}, answerable=False),
    ]
    return Dataset("tale", questions, [Document("tale", text)])


def test_evaluate_asks_known_items_of_a_copy_that_embeds_only_changed_passages(many, words, monkeypatch):
    monkeypatch.setattr("foliogpt.rag.evaluation.evaluate.features", lambda *given: Features(0.5, 0.5))
    before, embedded = many._store.catalog.generation, words.seen
    report = many.evaluate("known-items", questions=30)
    assert (report.dataset, report.questions, report.documents) == ("known-items", 30, 40)
    assert words.seen - embedded == 30
    assert many._store.catalog.generation == before
    assert [document for _, document in many._store.catalog.documents()] == list(texts())
    assert set(report.figures) == {"nDCG@10", "recall@1", "recall@5", "recall@10", "MRR@10"}
    assert list(report.figures["recall@1"]) == ["dense", "lexical", "hybrid"]
    assert report.figures["recall@10"]["lexical"].value > 0.9  # each question names its topic


def test_evaluate_applies_the_reranker(tmp_path, words):
    class Contrary:
        def predict(self, pairs):
            return [-1.0, *[1.0] * (len(pairs) - 1)]

    first = {}
    for reranker in (None, Contrary()):
        with Rag.open(tmp_path / "index", embedder=words, reranker=reranker) as opened:
            opened.sync(texts())
            first[reranker is None] = opened.evaluate("known-items", ["dense"], 20).figures["recall@1"]["dense"].value
    assert first[False] < first[True]


def test_evaluate_indexes_the_documents_of_a_dataset_and_rejects_an_index_with_others(rag, words):
    report = rag.evaluate(tale(), ["lexical"])
    assert (report.questions, report.documents) == (1, 1)
    assert report.figures["span recall@1"]["lexical"].value == 1
    embedded = words.seen
    rag.evaluate(tale(), ["lexical"])
    assert words.seen == embedded
    rag.sync([Document("note", "the moon")])
    with pytest.raises(ValueError, match="documents that are not in tale, such as 'note'"):
        rag.evaluate(tale())
    assert rag._store.catalog.counts()[0] == 2


def test_evaluate_rejects_a_dataset_without_answerable_questions(rag):
    dataset = tale()
    for count in (0, 1):
        with pytest.raises(ValueError, match=f"None of the {count} questions of tale has an answer"):
            rag.evaluate(replace(dataset, questions=dataset.questions[1 : 1 + count]))
    assert not rag._store.path.exists()


def test_evaluate_counts_a_repeated_mode_once(many):
    once, twice = (many.evaluate("known-items", ["dense"] * times, 20) for times in (1, 2))
    assert len(twice.figures["nDCG@10"]["dense"].rows) == 20
    assert str(twice) == str(once)


def test_evaluate_completes_a_partial_index(many):
    questions = [Question("q", "topic7", {("d7", 0): 1})]
    more = [*texts(), Document("another", "a bird")]
    assert many.evaluate(Dataset("begun", questions, more), ["lexical"]).documents == 41


def test_evaluate_needs_no_corpus_when_the_index_has_the_documents(many):
    questions = [Question(f"q{n}", f"topic{n}", {(f"d{n}", 0): 1}) for n in range(10)]
    report = many.evaluate(Dataset("mine", questions), ["lexical"], questions=6)
    assert (report.questions, report.figures["recall@1"]["lexical"].value) == (6, 1)
    unknown = Question("q", "what?", {("d77", 0): 1})
    with pytest.raises(ValueError, match="such as 'd77'"):
        many.evaluate(Dataset("mine", [*questions, unknown]))


def test_calibrate_stores_the_threshold_in_the_index(many):
    assert threshold_of(many._store.catalog) == DEFAULT_THRESHOLD
    report = many.evaluate("known-items", ["hybrid"], 40, calibrate=True)
    assert report.refusal is not None
    assert threshold_of(many._store.catalog) == report.refusal.threshold
    assert report.refusal.figures["calibrated"]["refused"].value > 0.5  # nothing else names the topic


def test_calibrate_rejects_an_index_of_one_document_before_searching(rag, monkeypatch):
    rag.sync([Document("d", " ".join(document.text for document in texts(8)))])
    monkeypatch.setattr("foliogpt.rag.retrieval.Retriever.search", lambda *args: pytest.fail("was asked"))
    with pytest.raises(ValueError, match="at least two documents"):
        rag.evaluate("known-items", calibrate=True)


def test_calibrate_rejects_too_few_questions(many, monkeypatch):
    report = many.evaluate("known-items", ["dense"], 19)
    assert report.refusal is None
    assert "needs 20 questions" in str(report)
    monkeypatch.setattr("foliogpt.rag.retrieval.Retriever.search", lambda *args: pytest.fail("was asked"))
    with pytest.raises(ValueError, match="needs 20 questions"):
        many.evaluate("known-items", ["dense"], 19, calibrate=True)
    with pytest.raises(ValueError, match="hybrid or dense"):
        many.evaluate("known-items", ["lexical"], calibrate=True)


@pytest.mark.parametrize(("options", "says"), [
    ({"modes": ["best"]}, "hybrid"), ({"modes": []}, "hybrid"), ({"questions": 0}, "at least 1"),
    ({"generator": "poet"}, "load_generator"),
])  # fmt: skip
def test_evaluate_rejects_invalid_arguments(many, options, says):
    with pytest.raises(ValueError, match=says):
        many.evaluate("known-items", **options)


def test_evaluate_rejects_an_index_of_another_embedder(many, tmp_path):
    with Rag.open(tmp_path / "index", embedder=WordEmbedder(1)) as opened, pytest.raises(ValueError, match="rebuild"):
        opened.evaluate("known-items")
    with Rag.open(tmp_path / "nowhere") as opened, pytest.raises(FileNotFoundError, match="no index"):
        opened.evaluate("known-items")
    assert not (tmp_path / "nowhere").exists()


class Poet:
    """Answers rightly from passages, and knows nothing without."""

    def write(self, question, passages, emit):
        if passages and "king" in question:
            at = passages[0].text.index("the castle")
            emit(Sentence(("Castle. ", '"the castle" ', passages[0].citation(at, at + 10))))
        elif not passages:
            emit(Sentence(("A palace.",)))


class Liar(Poet):
    def write(self, question, passages, emit):
        emit(Sentence(("In the castle ", Citation("tale", 0, 3, None, "not"))))


def test_answers_are_compared_with_those_without_and_with_the_right_passage(rag):
    report = rag.evaluate(tale(), generator=Poet())
    figures = {name: {given: each.value for given, each in by.items()} for name, by in report.answers.items()}
    assert figures["exact_match"] == {"passages found": 1, "no passages": 0, "the right passage": 1}
    assert figures["answered"] == {"passages found": 0.5}
    assert figures["citations that hold"] == {"passages found": 1}
    assert figures["sentences with a citation"] == {"passages found": 1}
    assert rag.evaluate(tale(), generator=Liar()).answers["citations that hold"]["passages found"].value == 0


def test_evaluate_omits_shares_of_citations_when_there_are_none(rag):
    class Silent:
        def write(self, question, passages, emit):
            pass

    report = rag.evaluate(tale(), generator=Silent())
    assert set(report.answers) == {"exact_match", "f1", "answered"}
    assert report.answers["answered"]["passages found"].value == 0


def test_quotations_are_scored_by_the_text_that_they_quote(rag):
    answers = rag.evaluate(tale(), generator="quote").answers
    assert answers["f1"]["passages found"].value > 0
    assert answers["citations that hold"]["passages found"].value == 1


def test_verdict_names_worse_modes_and_those_without_a_significant_difference():
    chance = random.Random(0)
    base = [chance.random() / 2 for _ in range(200)]
    by_mode = {
        "dense": mean("nDCG@10", base),
        "lexical": mean("nDCG@10", [value + chance.uniform(-0.4, 0.4) for value in base]),
        "hybrid": mean("nDCG@10", [value + 0.2 for value in base]),
    }
    report = EvaluationReport("d", "e", 1, 1, 200, {"nDCG@10": by_mode})
    assert report.verdict() == "By nDCG@10, hybrid is better than dense and lexical."
    del by_mode["hybrid"]
    assert "does not differ significantly" in report.verdict()
    by_mode["hybrid"] = mean("nDCG@10", [value + 0.001 for value in base])
    by_mode["lexical"] = mean("nDCG@10", [value / 2 for value in base])
    assert report.verdict() == "By nDCG@10, hybrid is better than dense and lexical."  # paired: 0.001 is sure


def test_refusal_metrics_come_from_questions_that_the_threshold_was_not_fitted_on():
    chance = random.Random(0)
    good = [Features(chance.gauss(0.6, 0.1), chance.gauss(0.6, 0.1)) for _ in range(300)]
    bad = [Features(chance.gauss(0.4, 0.1), chance.gauss(0.4, 0.1)) for _ in range(300)]
    refusal = measure(good, bad, good[:5], Threshold(1.0, 0.0, 0.0))
    figures = {line: {name: each.value for name, each in by.items()} for line, by in refusal.figures.items()}
    assert figures["the index's threshold"] == {"answered": 1, "refused": 0, "refused, marked": 0}
    assert figures["calibrated"]["answered"] == pytest.approx(0.95, abs=0.05)
    assert figures["calibrated"]["refused"] > 0.8  # by one of the features alone, about 0.64
    report = EvaluationReport("d", "e", 1, 1, 1, {"nDCG@10": {"dense": mean("nDCG@10", [1.0, 0.0])}}, refusal)
    assert json.loads(json.dumps(report.to_dict()))["refusal"]["threshold"]["least"] > 0
