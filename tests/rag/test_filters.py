"""`where` has the meaning that it has in Chroma."""

import math
import os

import chromadb
import pytest
from embedders import WordEmbedder

from foliogpt.rag import Document, Rag
from foliogpt.rag.filters import where_sql

METADATA = [
    {"type": "pdf", "year": 1999}, {"type": "pdf", "year": 2001, "draft": True}, {"type": "md", "year": 2001.5},
    {"type": "md", "draft": False}, {"type": "2001"}, {"year": -3, "type": "x y"},
]  # fmt: skip
CONDITIONS = [
    {"type": "pdf"}, {"type": {"$eq": "md"}}, {"type": {"$ne": "md"}}, {"year": {"$ne": 2001}}, {"year": {"$gt": 1999}},
    {"year": {"$gte": 1999}}, {"year": {"$lt": 2001}}, {"year": {"$lte": 2001}}, {"draft": True},
    {"draft": {"$ne": True}},
    {"type": {"$in": ["pdf", "x y"]}}, {"type": {"$nin": ["pdf", "md"]}}, {"year": {"$nin": [1999, 2001]}},
    {"$and": [{"type": "pdf"}, {"year": {"$gt": 2000}}]}, {"$or": [{"type": "md"}, {"year": -3}]},
    {"$or": [{"$and": [{"type": "pdf"}, {"draft": True}]}, {"type": "2001"}]}, {"nothing": 1}, {"nothing": {"$ne": 1}},
]  # fmt: skip


def nested(depth: int) -> dict:
    return {"$or": [nested(depth - 1)]} if depth else {"a": 1}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("filters")
    with Rag.open(folder / "index", embedder=WordEmbedder()) as rag:
        rag.sync(Document(str(number), "the cat", metadata=data) for number, data in enumerate(METADATA))
        client = chromadb.PersistentClient(str(folder / "chroma"))
        collection = client.create_collection("theirs", embedding_function=None)
        ids = [str(number) for number in range(len(METADATA))]
        collection.add(ids=ids, embeddings=[[1.0, 0.0]] * len(ids), metadatas=METADATA)
        yield rag, collection
        client.close()


@pytest.mark.parametrize("where", CONDITIONS, ids=str)
def test_every_mode_filters_like_chroma(both, where):
    rag, theirs = both
    expected = sorted(theirs.get(where=where)["ids"])
    for mode in ("hybrid", "dense", "lexical"):
        assert sorted(hit.document for hit in rag.search("cat", mode=mode, where=where)) == expected


def test_documents_are_chosen_by_name(both):
    assert [hit.document for hit in both[0].search("cat", where={"document": "3"})] == ["3"]


@pytest.mark.parametrize(
    "where",
    [
        {}, [], {"$not": 1}, {"a": {}}, {"a": {"$like": "x"}}, {"a": {"$in": []}}, {"a": {"$in": "xy"}},
        {"a": {"$gt": "x"}}, {"a": math.nan}, {"a": {"$lt": math.inf}}, {"a": 2**63}, {"a": {"$in": [1, -(10**30)]}},
        {"$or": [{"a": 1}] * 1000}, nested(20), nested(300),
        {"a": [1]}, {"$and": []}, {"$or": [5]}, {'a"': 1}, {"a": None}, {"a": {"$nin": [[1]]}},
    ],
)  # fmt: skip
def test_where_rejects_conditions_outside_the_language(where):
    with pytest.raises(ValueError, match="where"):
        where_sql(where)


@pytest.mark.parametrize(
    "where",
    [{"$or": [{"a": {"$gt": 1}}] * 400}, {"$and": [{"a": 1}] * 300}, nested(15), {"a": {"$in": [*range(10**5)]}}],
    ids=["gt", "eq", "nested", "in"],
)
def test_sqlite_evaluates_every_accepted_condition(both, where):
    assert both[0].search("cat", mode="lexical", where=where) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2**63, -(2**63) - 1])
def test_document_rejects_numbers_that_cannot_be_compared(value):
    with pytest.raises(ValueError, match="64 bits"):
        Document("a", "cat", metadata={"n": value})


def test_numbers_at_the_edges_are_stored_and_compared(rag):
    values = [2**63 - 1, -(2**63), 1e308, 5e-324, -0.0, True]
    rag.sync(Document(str(n), "cat", metadata={"n": value}) for n, value in enumerate(values))
    for number, value in enumerate(values[:2]):
        assert [hit.document for hit in rag.search("cat", where={"n": value})] == [str(number)]


def test_numbers_of_csv_columns_are_numbers_and_stay_the_text_that_they_are(rag, tmp_path):
    (tmp_path / "r.csv").write_text("text,year,zip,price\na cat,2001,00501,2.50\nmy cat,1999,10115,10\ncat,soon,x,\n")
    rag.sync(tmp_path / "r.csv")

    def found(where: dict) -> str:
        return "".join(hit.document[-1] for hit in sorted(rag.search("cat", where=where), key=lambda hit: hit.document))

    assert found({"year": {"$gt": 2000}}) == found({"year": 2001}) == found({"year": "2001"}) == "1"
    assert found({"price": {"$lt": 9}}) == found({"price": 2.5}) == found({"zip": "00501"}) == "1"
    assert found({"price": {"$gte": 2.5}}) == "12"
    assert found({"year": {"$ne": 2001}}) == found({"year": {"$nin": [2001]}}) == "23"
    assert found({"year": {"$in": [2001, 1999]}}) == "12"


def test_a_document_is_chosen_by_the_name_that_search_prints(rag, folder, monkeypatch):
    rag.sync(folder)
    monkeypatch.chdir(folder.parent)
    name = os.path.relpath(folder / "2.txt")
    for where in ({"document": name}, {"document": {"$in": [name, "x"]}}):
        assert [hit.text for hit in rag.search("a", where=where)] == ["the moon is silver"]
    assert len(rag.search("a", where={"document": {"$ne": name}})) == 5
