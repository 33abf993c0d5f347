"""The hits of a search and their order."""

import pytest
from scipy.stats import zscore

from foliogpt.rag import Document, Rag
from foliogpt.rag.retrieval import MAX_QUERY_CHARACTERS, RERANKER_WEIGHT, fuse


@pytest.fixture
def indexed(rag):
    rag.sync(Document(f"d{n}", f"the {animal} sleeps") for n, animal in enumerate(("cat", "dog", "bird")))
    return rag


def test_fuse_ranks_chunks_near_the_top_of_both_first():
    assert fuse([[(1, 9.0), (2, 8.0)], [(2, 0.9), (3, 0.8)]])[0][0] == 2
    assert fuse([[(1, 1.0)]]) == [(1, 1 / 61)]


def test_scores_are_those_of_the_mode(indexed):
    dense, lexical, hybrid = (indexed.search("cat", mode=mode)[0] for mode in ("dense", "lexical", "hybrid"))
    assert dense.score == dense.cosine == pytest.approx(hybrid.cosine)
    assert lexical.cosine is None
    assert hybrid.score == pytest.approx(2 / 61)
    assert dense.document == lexical.document == hybrid.document == "d0"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"query": " \n"}, "empty"), ({"query": "x" * (MAX_QUERY_CHARACTERS + 1)}, "at most"), ({"k": 0}, "at least 1"),
        ({"k": 2.5}, "at least 1"), ({"mode": "magic"}, "hybrid"), ({"query": "\ud800"}, "surrogate"),
        ({"where": {"a": {"$x": 1}}}, r"\$x"),
    ],
)  # fmt: skip
def test_search_rejects_invalid_arguments(indexed, arguments, says):
    with pytest.raises(ValueError, match=says):
        indexed.search(**{"query": "cat", **arguments})


def test_more_than_there_is_can_be_asked_for(indexed):
    assert len(indexed.search("sleeps", k=5000)) == 3


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_copies_of_a_text_take_one_place(indexed, mode):
    indexed.sync(Document(f"copy{n}", f"the  cat\n{'' if n else ' '}sleeps") for n in range(3))
    found = [hit.document for hit in indexed.search("cat", k=3, mode=mode)]
    assert len(found) == (1 if mode == "lexical" else 3)
    assert sum(name == "d0" or name.startswith("copy") for name in found) == 1


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_rows_with_the_same_words_are_all_found_when_metadata_is_filtered(rag, mode):
    rag.sync(
        Document(f"r{n}", "refund, please", metadata={"year": year}) for n, year in enumerate((2001, 2002, 2002.0))
    )
    assert len(rag.search("refund", mode=mode)) == 1
    found = [hit.document for hit in rag.search("refund", mode=mode, where={"year": {"$gt": 2000}})]
    assert sorted(found) == ["r0", "r1", "r2"]


def test_a_question_without_words_is_left_to_the_vectors(indexed):
    assert not indexed.search("?!", mode="lexical")
    assert len(indexed.search("?!")) == 3


def test_vectors_of_an_unknown_script_are_left_out_with_one_warning(tmp_path, embedder, caplog):
    texts = {"en": "the cat", "zh": "中国的人口超过十三亿", "ru": "Книги читают в библиотеках"}
    with Rag.open(tmp_path / "index", embedder=embedder) as rag:
        rag.sync(Document(*each) for each in texts.items())
        assert len(rag.search("the dog")) == 3  # all vectors
        assert not caplog.records
        assert [hit.document for hit in rag.search("人口有多少")] == ["zh"]
        assert [hit.document for hit in rag.search("книга")] == ["ru"]
        assert rag.search("日") == []
        assert len(rag.search("книга", mode="dense")) == 3
    assert [record.message for record in caplog.records if "does not know the script" in record.message] == [
        caplog.records[0].message
    ]


def test_a_misspelled_word_finds_what_is_spelled_like_it_and_a_known_one_does_not(rag):
    rag.sync(Document(name, text) for name, text in (("a", "temporary directories"), ("b", "contemporary silver")))
    assert [hit.document for hit in rag.search("tmeporary", mode="lexical")] == ["a"]
    assert [hit.document for hit in rag.search("silvre", mode="lexical")] == ["b"]
    assert [hit.document for hit in rag.search("silver", mode="lexical")] == ["b"]
    assert rag.search("quokka 2019", mode="lexical") == []
    rag.sync([Document("c", "silvre")])
    assert rag.search("silvre", mode="lexical")[0].document == "c"


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_the_search_and_a_reranker_decide_together(tmp_path, words, rag, mode):
    rag.sync(Document(f"d{n}", f"the cat {'and the dog ' * n}sleeps {n}") for n in range(6))
    plain = rag.search("cat", k=6, mode=mode)
    given = {"d0": 0.0, "d1": 5.0, "d2": -40.0, "d3": 2.0, "d4": 0.5, "d5": 0.25}
    for scores in (given, dict.fromkeys(given, 7.0)):

        class Known:
            def predict(self, pairs, scores=scores):
                return [scores[f"d{text[-1]}"] for _, text in pairs]

        with Rag.open(tmp_path / "index", embedder=words, reranker=Known()) as reranked:
            hits = reranked.search("cat", k=6, mode=mode)
            assert reranked.search("cat", k=2, mode=mode) == hits[:2]
        theirs = [scores[hit.document] for hit in plain]
        expected = zscore([hit.score for hit in plain])
        expected += RERANKER_WEIGHT * zscore(theirs) if len(set(theirs)) > 1 else 0
        assert {hit.document: pytest.approx(hit.score) for hit in hits} == dict(
            zip([hit.document for hit in plain], expected, strict=True)
        )
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        if scores is not given:  # a reranker that tells nothing apart changes nothing
            assert [hit.document for hit in hits] == [hit.document for hit in plain]


def test_of_one_hit_or_none_a_reranker_changes_nothing(tmp_path, words, indexed):
    class Any:
        def predict(self, pairs):
            return [3.0] * len(pairs)

    with Rag.open(tmp_path / "index", embedder=words, reranker=Any()) as reranked:
        assert [hit.document for hit in reranked.search("cat", mode="lexical")] == ["d0"]
        assert reranked.search("quokka", mode="lexical") == []


def test_a_question_may_be_rewritten_into_several(tmp_path, words, indexed):
    for rewritten, expected in (("dog", {"d1"}), (["dog", "bird"], {"d1", "d2"}), ([" "], {"d0"})):
        with Rag.open(tmp_path / "index", embedder=words, rewrite=lambda query, to=rewritten: to) as rewriting:
            found = rewriting.search("cat", k=len(expected), mode="lexical")
        assert {hit.document for hit in found} == expected


def test_an_empty_index_and_one_that_is_not_there_say_so(tmp_path, words):
    with pytest.raises(FileNotFoundError, match="folio rag sync"):
        Rag.open(tmp_path / "nowhere", embedder=words).search("cat")
    assert not (tmp_path / "nowhere").exists()
    with Rag.open(tmp_path / "empty", embedder=words) as empty:
        empty.sync([])
        with pytest.raises(ValueError, match="is empty"):
            empty.search("cat")
        assert empty.verify().ok
