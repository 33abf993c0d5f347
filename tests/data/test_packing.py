"""Packing: every token is predicted exactly once, and documents stay apart."""

import os
import subprocess
from pathlib import Path

import forks
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from foliogpt.data import packing
from foliogpt.data.packing import IGNORE_INDEX, PackedCollator, blocks_fingerprint, pack
from foliogpt.tokenization import encode_texts, train_char_tokenizer

TEXTS = ["abcd", "e", "fghijklmno", "", "pq"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_char_tokenizer(TEXTS)


@pytest.fixture
def documents():
    return Dataset.from_dict({"name": [str(i) for i in range(len(TEXTS))], "text": TEXTS})


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("block_size", [2, 3, 7, 100])
def test_every_token_is_predicted_exactly_once_and_in_order(documents, tokenizer, block_size, streamed):
    source = documents.to_iterable_dataset() if streamed else documents
    blocks = list(pack(source, tokenizer, block_size))
    assert all(len(block["input_ids"]) == block_size for block in blocks[:-1])
    labels = PackedCollator(tokenizer.eos_token_id)(blocks)["labels"]
    predicted = [i for row in labels.tolist() for i in row[1:] if i != IGNORE_INDEX]
    assert tokenizer.decode(predicted) == "<|endoftext|>".join(TEXTS) + "<|endoftext|>"


def test_the_first_document_follows_an_end_of_text_like_all_others(documents, tokenizer):
    assert pack(documents, tokenizer, 4)[0]["input_ids"][0] == tokenizer.eos_token_id


def test_positions_begin_with_each_document(documents, tokenizer):
    eos = tokenizer.eos_token_id
    batch = PackedCollator(eos)([{"input_ids": [9, 9, eos, 9, 9, eos, eos, 9]}])
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2, 0, 0, 1]]
    assert batch["input_ids"].dtype == torch.long


def test_a_short_block_is_filled_up_with_what_is_not_predicted(tokenizer):
    batch = PackedCollator(0)([{"input_ids": [0, 5, 6, 7]}, {"input_ids": [7, 8]}])
    assert batch["input_ids"].tolist() == [[0, 5, 6, 7], [7, 8, 0, 0]]
    assert batch["labels"].tolist() == [[0, 5, 6, 7], [7, 8, IGNORE_INDEX, IGNORE_INDEX]]


def test_text_that_spells_the_end_of_a_document_does_not_end_it(tokenizer):
    documents = Dataset.from_dict({"name": ["a"], "text": ["ab<|endoftext|>cd"]})
    (block,) = pack(documents, tokenizer, 100)
    assert block["input_ids"].count(tokenizer.eos_token_id) == 2  # before and after the document


def test_blocks_are_made_once_and_found_again_by_their_documents_tokenizer_and_size(
    documents, tokenizer, private_datasets_cache, monkeypatch
):
    first = pack(documents, tokenizer, 7, "these documents")
    assert len(first.cache_files) == 1  # memory-mapped

    def tokenize(*_):
        raise AssertionError("tokenized again")

    monkeypatch.setattr(packing, "encode_texts", tokenize)
    again = pack(documents, tokenizer, 7, "these documents")
    assert again.to_list() == first.to_list()
    other = train_char_tokenizer([*TEXTS, "xyz"])
    for changed in ((tokenizer, 8, "these documents"), (tokenizer, 7, "others"), (other, 7, "these documents")):
        with pytest.raises(AssertionError, match="tokenized again"):
            pack(documents, *changed)


def test_processes_that_start_together_share_one_tokenization(tmp_path):
    code = """
import sys
from datasets import Dataset
from foliogpt.tokenization import train_char_tokenizer
from foliogpt.data.packing import pack
texts = ["abcd" * 2000] * 50
blocks = pack(Dataset.from_dict({"name": texts, "text": texts}), train_char_tokenizer(texts[:1]), 9, "the same")
print(blocks[-1]["input_ids"], len(blocks), [file["filename"] for file in blocks.cache_files])
"""
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path)}
    processes = [forks.Popen([code], env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (process.communicate()[0] for process in processes)
    assert first == second != ""
    assert len(list(tmp_path.rglob("*.arrow"))) == 1


@pytest.mark.parametrize("left", [0, 0.5, -8, -1])
def test_blocks_that_were_cut_off_are_made_again(documents, tokenizer, private_datasets_cache, left):
    blocks = pack(documents, tokenizer, 7, f"cut at {left}")
    whole, file = blocks.to_list(), Path(blocks.cache_files[0]["filename"])
    del blocks
    data = file.read_bytes()
    file.unlink()  # and not overwritten, as it is in memory
    file.write_bytes(data[: int(len(data) * left) if isinstance(left, float) else left])
    (file.parent / "tmp123").write_bytes(b"of a process that was killed")
    assert pack(documents, tokenizer, 7, f"cut at {left}").to_list() == whole
    assert file.read_bytes() == data
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_pack_names_a_cache_that_cannot_be_written(documents, tokenizer, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "file" / "cache")
    with pytest.raises(OSError, match=r"cannot be stored in .*file/cache.*HF_DATASETS_CACHE"):
        pack(documents, tokenizer, 7, "a full disk")


def test_a_tokenizer_that_cut_and_padded_before_has_the_same_blocks(documents, private_datasets_cache):
    cutting = train_char_tokenizer(TEXTS)
    cutting.backend_tokenizer.enable_truncation(2)
    cutting.backend_tokenizer.enable_padding()
    before = blocks_fingerprint("x", cutting, 7)
    encode_texts(cutting, TEXTS)
    assert blocks_fingerprint("x", cutting, 7) == before


def test_a_tokenizer_in_python_packs_too(documents, private_datasets_cache):
    tokenizer = ByT5Tokenizer()
    first, *_ = pack(documents, tokenizer, 6, "bytes")
    assert first["input_ids"] == [tokenizer.eos_token_id, *(ord(c) + 3 for c in "abcd"), tokenizer.eos_token_id]


@pytest.mark.parametrize("last", [2**16 - 1, 2**16])
def test_ids_are_stored_whatever_the_size_of_the_vocabulary(documents, last):
    vocabulary = {"<e>": 0, **{letter: last - i for i, letter in enumerate("abcdefghijklmnopq")}}  # with a gap
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<e>"))
    backend.pre_tokenizer = Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<e>")
    blocks = pack(documents, tokenizer, 100)
    assert blocks.features["input_ids"].feature.dtype == ("uint16" if last < 2**16 else "uint32")
    assert max(blocks[0]["input_ids"]) == last


def test_pack_rejects_a_block_of_one_token(documents, tokenizer):
    with pytest.raises(ValueError, match="at least 2"):
        pack(documents, tokenizer, 1)


def test_pack_rejects_a_tokenizer_without_end_of_text(documents):
    tokenizer = train_char_tokenizer(TEXTS)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="eos_token"):
        pack(documents, tokenizer, 8)
