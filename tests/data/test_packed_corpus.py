"""Corpora are mixed by weight, and streams shuffled, the same way every time."""

import json
import re
from collections import Counter
from itertools import islice

import pytest
from torch.utils.data import DataLoader

from foliogpt.data.arguments import CorpusArguments
from foliogpt.data.packed_corpus import pack_corpora
from foliogpt.data.packing import pack
from foliogpt.jobs.report import Stages
from foliogpt.training.arguments import ModelArguments

MODEL = ModelArguments(tokenizer="char", block_size=8)


@pytest.fixture(scope="module", autouse=True)
def _cache(private_datasets_cache):
    pass


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Write a corpus of the letter a, and one of the letter b that is four times as long."""
    folder = tmp_path_factory.mktemp("corpora")
    for letter, length in (("a", 1000), ("b", 4000)):
        (folder / f"{letter}.txt").write_text(letter * length)
    return [str(folder / "a.txt"), str(folder / "b.txt")]


def prepare(**corpus):
    return pack_corpora(
        CorpusArguments(**corpus), MODEL.tokenizer, MODEL.vocab_size, MODEL.block_size, Stages(silent=True)
    )


def letters(data, count=None) -> Counter:
    blocks = islice(iter(data.train_blocks), count)
    return Counter(data.tokenizer.decode([id for block in blocks for id in block["input_ids"] if id > 4]))


def test_corpora_without_weights_are_used_whole(two):
    data = prepare(corpus=two)
    assert letters(data)["b"] == pytest.approx(4 * letters(data)["a"], rel=0.01)
    assert data.train_documents == 2
    assert data.train_bytes == 4500


@pytest.mark.parametrize("streaming", [False, True])
def test_weights_are_shares_of_the_tokens(two, streaming, tmp_path):
    if streaming:  # many documents, since a text file is one
        for letter in "ab":
            rows = [{"text": letter * 50}] * 400
            (tmp_path / f"{letter}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        two = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    data = prepare(corpus=two, corpus_weights=[3, 1], streaming=streaming)
    counted = letters(data, 400)
    assert counted["a"] / counted.total() == pytest.approx(0.75, abs=0.06)
    again = prepare(corpus=two, corpus_weights=[3, 1], streaming=streaming)
    assert list(islice(iter(again.train_blocks), 400)) == list(islice(iter(data.train_blocks), 400))


def test_a_mixture_ends_when_every_block_has_come(two):
    data = prepare(corpus=two, corpus_weights=[1, 1])
    once = [len(pack(corpus.train, data.tokenizer, 8)) for corpus in data.corpora]
    letter = dict(zip("ab", data.tokenizer.convert_tokens_to_ids(["a", "b"]), strict=True))
    seen = {name: sum(id in block["input_ids"] for block in data.train_blocks) for name, id in letter.items()}
    assert seen["b"] == once[1]
    assert seen["a"] > 3 * once[0]


def test_a_stream_is_shuffled_within_its_buffer_and_differently_in_each_pass(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"text": f"{i:03}"}) for i in range(300)))

    def order(**corpus):
        data = prepare(corpus=str(rows), streaming=True, **corpus)
        ids = [id for block in islice(data.train_blocks, 500) for id in block["input_ids"][1:]]
        numbers = [int(number) for number in data.tokenizer.decode(ids).split("<|endoftext|>") if len(number) == 3]
        once = sum(1 for _ in data.corpora[0].train)
        return numbers[:once], numbers[once : 2 * once]

    near, far = order(shuffle_buffer_size=1), order(shuffle_buffer_size=100)
    assert near[0] == near[1] == sorted(near[0])
    assert far[0] != far[1] != near[0]
    assert sorted(far[0]) == sorted(far[1]) == near[0]
    assert far == order(shuffle_buffer_size=100)


def test_a_mixture_of_streams_repeats_an_ended_stream_in_another_order(tmp_path):
    for letter, rows in (("a", 120), ("b", 400)):
        lines = [json.dumps({"text": f"{letter}{i:03}"}) for i in range(rows)]
        (tmp_path / f"{letter}.jsonl").write_text("\n".join(lines))
    names = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    data = prepare(corpus=names, corpus_weights=[3, 1], streaming=True, shuffle_buffer_size=50)
    texts = "".join(data.tokenizer.decode(block["input_ids"][1:]) for block in islice(data.train_blocks, 600))
    once = sum(1 for _ in data.corpora[0].train)
    seen = re.findall(r"a\d{3}", texts)
    assert len(seen) > 2 * once * 0.8
    first, second = seen[: once // 2], seen[once : once + once // 2]
    assert first != second


def test_workers_of_the_data_loader_share_a_stream_and_none_repeats_it(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"text": f"{i:03}"}) for i in range(300)))
    data = prepare(corpus=str(rows), streaming=True)
    loader = DataLoader(data.train_blocks, batch_size=4, collate_fn=list, num_workers=2)
    loaded = [tuple(block["input_ids"]) for batch in islice(loader, 10) for block in batch]
    assert len(set(loaded)) == 40


def test_pack_corpora_rejects_a_broken_tokenizer_in_one_line(two, tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ValueError, match="is not a tokenizer's directory") as error:
        pack_corpora(CorpusArguments(two), str(tmp_path), 4096, 256, Stages(silent=True))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"corpus": ["a", "b"], "streaming": True}, "--corpus_weights"),
        ({"corpus": ["a", "b"], "corpus_weights": [1.0]}, "one for each"),
        ({"corpus": ["a", "b"], "corpus_weights": [1.0, 0.0]}, "above 0"),
        ({"corpus": ["a", "a"]}, "named twice"),
        ({"corpus": "a", "shuffle_buffer_size": 0}, "at least 1"),
    ],
)
def test_corpus_arguments_reject_invalid_mixtures(arguments, says):
    with pytest.raises(ValueError, match=says):
        CorpusArguments(**arguments)


def test_a_stream_is_entered_where_it_was_left(tmp_path, monkeypatch):
    for letter, rows in (("a", 150), ("b", 400)):
        lines = [json.dumps({"text": f"{letter}{i:03}"}) for i in range(rows)]
        (tmp_path / f"{letter}.jsonl").write_text("\n".join(lines))
    names = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    monkeypatch.setattr("foliogpt.data.packing.TOKENIZE_BATCH_SIZE", 30)
    options = {"corpus": names, "corpus_weights": [3, 1], "streaming": True, "shuffle_buffer_size": 50}
    stream = prepare(**options).train_blocks
    whole = list(islice(stream, 700))  # some passes of both
    for blocks in (5, 64, 130, 639, 640, 700):
        position = json.loads(json.dumps(stream.position(blocks)))
        assert blocks - 64 < position["blocks"] <= blocks
        later = prepare(**options).train_blocks
        packed = []

        def seen(batch, real=later.streams[0].pack_batch, packed=packed):
            packed.extend(batch["text"])
            return real(batch)

        later.streams[0].pack_batch = later.streams[1].pack_batch = seen
        later.start = position
        again = list(islice(later, 700))
        assert again[position["blocks"] :] == whole[position["blocks"] :]
        assert not any(again[: position["blocks"]])
    assert len(packed) < 200  # of about a thousand documents
