"""`where` means what it means to Chroma."""

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


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("filters")
    with Rag.open(folder / "index", embedder=WordEmbedder()) as rag:
        rag.sync(Document(str(number), f"the cat {number}", metadata=data) for number, data in enumerate(METADATA))
        client = chromadb.PersistentClient(str(folder / "chroma"))
        collection = client.create_collection("theirs", embedding_function=None)
        ids = [str(number) for number in range(len(METADATA))]
        collection.add(ids=ids, embeddings=[[1.0, 0.0]] * len(ids), metadatas=METADATA)
        yield rag, collection
        client.close()


@pytest.mark.parametrize("where", CONDITIONS, ids=str)
def test_every_mode_finds_what_chroma_would(both, where):
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
        {"a": {"$gt": "x"}}, {"a": [1]}, {"$and": []}, {"$or": [5]}, {'a"': 1}, {"a": None}, {"a": {"$nin": [[1]]}},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_not_in_the_language_is_refused(where):
    with pytest.raises(ValueError, match="where"):
        where_sql(where)
