"""Pairs to train an embedder on: their texts, and that held-out sources are not trained on."""

import json
import re
import shutil

import pytest

from foliogpt.rag import Document, Heading
from foliogpt.rag.embedder.pairs import SENTENCE, TITLE, Pair, corpus_pairs, hold_out, load_documents, read_pairs

TEXT = """The river is long and it is deep. A ship on the river carries bread and wine.

The king of the castle sings an old song. Nobody listens to him at night.
"""


def starts(text: str) -> list[int]:
    return [found.start() for found in re.finditer(r"\S+", text)]


def test_corpus_pairs_ask_by_titles_and_by_removed_sentences():
    pairs = corpus_pairs([Document("a", TEXT, "Rivers and Kings")], starts, 254)
    titles, sentences = ([pair for pair in pairs if pair.kind == kind] for kind in (TITLE, SENTENCE))
    assert [(pair.anchor, pair.positive) for pair in titles] == [("Rivers and Kings", TEXT.strip())]
    assert len(sentences) == 3
    for pair in sentences:
        assert pair.anchor in TEXT
        assert pair.anchor not in pair.positive
        assert pair.positive.startswith("Rivers and Kings\n")  # as the embedder of an index sees it
        assert len(pair.positive) > len(TEXT) / 2


def test_corpus_pairs_ask_by_the_nearest_heading():
    text = "# Water\n\n## Ships\n\nA ship on the sea.\n\n# Birds\n\nA bird in the wind.\n"
    headings = tuple(Heading(text.index(h), h.count("#"), h.strip("# ")) for h in ("# Water", "## Ships", "# Birds"))
    pairs = corpus_pairs([Document("a", text, headings=headings)], starts, 60)
    assert {pair.anchor for pair in pairs if pair.kind == TITLE} <= {"Water", "Ships", "Birds"}


def test_corpus_pairs_are_the_same_with_the_same_seed():
    text = " ".join(f"The number {n} is said in this sentence." for n in range(20))
    pairs = [corpus_pairs([Document("a", text)], starts, 254, seed=seed) for seed in (1, 1, 2)]
    assert pairs[0] == pairs[1] != pairs[2]
    assert len(pairs[0]) == 3


def test_hold_out_keeps_pairs_of_a_source_together():
    documents = [Document(f"d{n}", TEXT.replace("river", f"river{n}"), f"Title {n}") for n in range(120)]
    pairs = corpus_pairs(documents, starts, 254)
    train, held_out = hold_out(pairs, "corpus")
    assert len(train) + len(held_out) == len(pairs)
    assert len({pair.source for pair in held_out}) == 6  # 5 %
    assert not {pair.source for pair in train} & {pair.source for pair in held_out}
    assert hold_out(pairs[::-1], "corpus")[1] == held_out[::-1]  # whatever the order
    one = corpus_pairs([Document("long", "\n\n".join(d.text for d in documents))], starts, 254)
    train, held_out = hold_out(one, "corpus")  # one document is held out in parts
    assert train
    assert not {pair.source for pair in train} & {pair.source for pair in held_out}


def test_hold_out_rejects_too_few_passages():
    words = Document("a", "cat dog moon")
    for documents, says in (([words], "no pairs"), ([Document("a", "cat dog", "Animals")], "one pair")):
        with pytest.raises(ValueError, match=rf"^it gives {says}: give at least 4 passages"):
            hold_out(corpus_pairs(documents, starts, 254), "it")
    with pytest.raises(ValueError, match="3 pairs of 1 passages"):
        hold_out([Pair("a", "b", source="x")] * 3, "it")


@pytest.mark.parametrize("names", [("anchor", "positive"), ("query", "text"), ("question", "answer")])
def test_read_pairs_recognizes_columns_by_their_names(tmp_path, names):
    rows = [dict(zip((*names, "negative"), (f"q{n}", f"t{n}", f"n{n}"), strict=True)) for n in range(3)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = "\n".join([",".join(names), *(",".join(list(row.values())[:2]) for row in rows)])
    (tmp_path / "pairs.csv").write_text(table)
    with_negatives = read_pairs(str(tmp_path / "pairs.jsonl"))
    assert with_negatives == [Pair(f"q{n}", f"t{n}", f"n{n}", source=f"t{n}") for n in range(3)]
    assert [pair.negative for pair in read_pairs(str(tmp_path / "pairs.csv"))] == ["", "", ""]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (['{"question": "a"}'], "line 1 has only the columns question: give anchor and positive"),
        (['{"question": "a", "answer": "b"}', "{"], "line 2 is not JSON"),
        (['{"question": "a", "answer": "  "}'], "line 1 has '  ' as answer, not a text"),
        (['{"question": 1, "answer": "b"}'], "line 1 has '1' as question"),
        (["[1]"], "row 1 is not an object with columns"),
        (['{"query": "a", "text": "b", "negative": null}'], "'None' as negative"),
        (['{"query": "a", "text": "b"}', '{"query": "a", "text": "b", "negative": "c"}'], "1 of the 2 rows"),
    ],
)
def test_read_pairs_names_a_row_that_is_not_a_pair(tmp_path, rows, says):
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows))
    with pytest.raises(ValueError, match=re.escape(says)):
        read_pairs(str(tmp_path / "pairs.jsonl"))


def test_load_documents_names_stay_the_same_when_the_folder_moves(folder, tmp_path):
    moved = tmp_path / "elsewhere" / "moved"
    shutil.copytree(folder, moved)
    here, there = (load_documents(str(root)) for root in (folder, moved))
    assert [document.name for document in here] == [document.name for document in there]
    assert load_documents(str(folder / "1.txt"))[0].name == "1.txt"


def test_load_documents_reads_files_as_an_index_does(folder):
    (folder / "4.pdf").write_bytes(b"broken")
    assert len(load_documents(str(folder))) == 6
    with pytest.raises(ValueError, match=r"4\.pdf is a broken PDF"):
        load_documents(str(folder / "4.pdf"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_documents("nowhere")
