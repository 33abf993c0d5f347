"""Datasets in BEIR's layout and in SQuAD's form, and the errors of others."""

import gzip
import json

import pytest

from foliogpt.rag.evaluation.datasets import load_dataset

CORPUS = [{"_id": "1", "title": "Moon", "text": "The moon is silver."}, {"_id": "2", "title": "", "text": "A king."}]
QUERIES = [{"_id": "q1", "text": "What is silver?"}, {"_id": "q2", "text": "Who?"}, {"_id": "q3", "text": "unjudged"}]
QRELS = "query-id\tcorpus-id\tscore\nq1\t1\t2\nq1\t2\t0\nq2\t2\t1\n"
CONTEXTS = ["The moon is silver.", "The king of Paris sleeps in Paris."]


def beir(folder, corpus=CORPUS, queries=QUERIES, qrels=QRELS):
    (folder / "qrels").mkdir()
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "qrels" / "test.tsv").write_text(qrels)
    return folder


def nested():
    def qa(id, question, *starts):
        answers = [{"text": "Paris", "answer_start": start} for start in starts]
        return {"id": id, "question": question, "answers": answers, "is_impossible": not starts}

    paragraphs = [
        {"context": CONTEXTS[0], "qas": [qa("a", "Who sleeps?")]},
        {"context": CONTEXTS[1], "qas": [qa("b", "Where does he sleep?", 12, 28)]},
    ]
    return {"version": "v2.0", "data": [{"title": "A_tale", "paragraphs": paragraphs}]}


def test_load_dataset_reads_both_beir_layouts(tmp_path):
    dataset = load_dataset(beir(tmp_path))
    assert [document.text for document in dataset.documents or []] == ["Moon\n\nThe moon is silver.", "A king."]
    assert [(q.id, q.text, q.relevant) for q in dataset.questions] == [
        ("q1", "What is silver?", {("1", 0): 2}),
        ("q2", "Who?", {("2", 0): 1}),
    ]
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / "corpus.jsonl.gz").write_bytes(gzip.compress((tmp_path / "corpus.jsonl").read_bytes()))
    (tmp_path / "queries.jsonl").rename(flat / "queries.test.jsonl")
    (tmp_path / "qrels" / "test.tsv").rename(flat / "qrels.test.tsv")
    assert load_dataset(flat).questions == dataset.questions
    assert load_dataset(flat).documents == dataset.documents


def test_load_dataset_has_no_documents_without_a_corpus(tmp_path):
    (beir(tmp_path) / "corpus.jsonl").unlink()
    assert load_dataset(tmp_path).documents is None


def test_squad_nested_makes_one_document_of_a_title(tmp_path):
    (tmp_path / "squad.json").write_text(json.dumps(nested()))
    dataset = load_dataset(tmp_path / "squad.json")
    (document,) = dataset.documents or []
    assert (document.name, document.title, document.text) == ("A_tale", "A tale", "\n\n".join(CONTEXTS))
    impossible, question = dataset.questions
    assert (impossible.answerable, impossible.answers, impossible.spans) == (False, (), ())
    assert (question.answerable, question.answers, question.relevant) == (True, ("Paris",), {("A_tale", 1): 1})
    assert [document.text[start:end] for _, start, end in question.spans] == ["Paris", "Paris"]
    assert dataset.sections == {"A_tale": [0, len(CONTEXTS[0]) + 2]}


def test_squad_in_flat_rows_makes_a_document_of_each_context(tmp_path):
    answers = {"text": ["silver"], "answer_start": [12]}
    rows = [{"context": CONTEXTS[0], "question": q, "answers": answers} for q in ("Which metal?", "What metal?")]
    rows.append({"context": CONTEXTS[1], "question": "Which?", "answers": {"text": [], "answer_start": []}})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = load_dataset(tmp_path / "rows.jsonl")
    assert [document.text for document in dataset.documents or []] == CONTEXTS
    assert [question.answerable for question in dataset.questions] == [True, True, False]
    assert len({question.id for question in dataset.questions}) == 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"qrels": QRELS + "q9\t1\t1\n"}, "line 5 names the query 'q9'"),
        ({"qrels": QRELS + "q2\t9\t1\n"}, "line 5 names the document '9'"),
        ({"qrels": QRELS + "q2 1 1\n"}, "line 5 "), ({"qrels": QRELS + "q2\t\t1\n"}, "line 5 has no text as corpus-id"),
        ({"qrels": QRELS + "q2\t1\tinf\n"}, "line 5 has a score that is not a number"),
        ({"qrels": QRELS + "q2\t1\t\n"}, "line 5 has a score that is not a number"),
        ({"qrels": "q1\t1\t2\nq2\t2\t1\n"}, "line 2 has no text as query-id"),
        ({"corpus": [*CORPUS, CORPUS[0]]}, "two documents '1'"),
        ({"corpus": [*CORPUS, {"_id": "3"}]}, "line 3 has no text"),
        ({"corpus": [*CORPUS, ["3"]]}, "line 3 is not an object"),
        ({"queries": [{"_id": "q1", "text": " "}]}, "line 1 has no text"),
        ({"corpus": [{"_id": "1", "text": "a", "title": 3}]}, "line 1 has no text as title"),
        ({"corpus": [{"_id": "1", "text": "\0"}]}, "NUL"),
    ],
)  # fmt: skip
def test_load_dataset_names_the_row_that_is_wrong_in_a_beir_folder(tmp_path, change, says):
    with pytest.raises(ValueError, match=says):
        load_dataset(beir(tmp_path, **change))


def test_load_dataset_rejects_other_files_with_a_reason(tmp_path):
    for source in ("", tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"known-items"):
            load_dataset(source)
    with pytest.raises(ValueError, match=r"no qrels/test\.tsv"):
        load_dataset(tmp_path)
    (tmp_path / "qrels.test.tsv").write_text(QRELS)
    with pytest.raises(ValueError, match=r"no queries\.jsonl"):
        load_dataset(tmp_path)
    torn = tmp_path / "corpus.jsonl.gz"
    torn.write_bytes(gzip.compress(json.dumps(CORPUS[0]).encode())[:-20])
    (tmp_path / "queries.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"corpus\.jsonl\.gz cannot be read: Compressed file ended"):
        load_dataset(tmp_path)
    for name, text, says in (
        ("notes.txt", "no rows", "no file of rows"), ("a.json", "{", "not JSON"),
        ("b.json", '{"data": []}', "has the columns data; qa needs"),
        ("c.jsonl", '{"text": "x"}', "qa needs"), ("d.jsonl", "[1]", "not an object"),
    ):  # fmt: skip
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=says):
            load_dataset(tmp_path / name)


def test_load_dataset_names_an_answer_at_a_wrong_position(tmp_path):
    data = nested()
    data["data"][0]["paragraphs"][1]["qas"][0]["answers"][0]["answer_start"] = 13
    (tmp_path / "squad.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match="row 2 has the answer 'Paris', which is not at 13"):
        load_dataset(tmp_path / "squad.json")
