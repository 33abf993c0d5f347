"""Packing: every token is predicted exactly once, and documents stay apart."""

import os
import subprocess
import sys

import pytest
import torch
from datasets import Dataset

from foliogpt.tokenization import train_char_tokenizer
from foliogpt.training import packing
from foliogpt.training.packing import IGNORED, PackedCollator, pack

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
    predicted = [i for row in labels.tolist() for i in row[1:] if i != IGNORED]
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
    assert batch["labels"].tolist() == [[0, 5, 6, 7], [7, 8, IGNORED, IGNORED]]


def test_text_that_spells_the_end_of_a_document_does_not_end_it(tokenizer):
    documents = Dataset.from_dict({"name": ["a"], "text": ["ab<|endoftext|>cd"]})
    (block,) = pack(documents, tokenizer, 100)
    assert block["input_ids"].count(tokenizer.eos_token_id) == 2  # before and after the document


def test_blocks_are_made_once_and_found_again_by_their_documents_tokenizer_and_size(
    documents, tokenizer, private_datasets_cache, monkeypatch
):
    first = pack(documents, tokenizer, 7, "these documents")
    assert len(first.cache_files) == 1  # memory-mapped

    def tokenise(*_):
        raise AssertionError("tokenised again")

    monkeypatch.setattr(packing, "encode_texts", tokenise)
    again = pack(documents, tokenizer, 7, "these documents")
    assert again.to_list() == first.to_list()
    other = train_char_tokenizer([*TEXTS, "xyz"])
    for changed in ((tokenizer, 8, "these documents"), (tokenizer, 7, "others"), (other, 7, "these documents")):
        with pytest.raises(AssertionError, match="tokenised again"):
            pack(documents, *changed)


def test_processes_that_start_together_share_one_tokenisation(tmp_path):
    code = """
import sys
from datasets import Dataset
from foliogpt.tokenization import train_char_tokenizer
from foliogpt.training import packing
from foliogpt.training.packing import pack
texts = ["abcd" * 2000] * 50
blocks = pack(Dataset.from_dict({"name": texts, "text": texts}), train_char_tokenizer(texts[:1]), 9, "the same")
print(blocks[-1]["input_ids"], len(blocks), [file["filename"] for file in blocks.cache_files])
"""
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (process.communicate()[0] for process in processes)
    assert first == second != ""
    assert len(list(tmp_path.rglob("*.arrow"))) == 1


def test_a_block_of_one_token_is_refused(documents, tokenizer):
    with pytest.raises(ValueError, match="at least 2"):
        pack(documents, tokenizer, 1)


def test_a_tokenizer_without_end_of_text_is_refused(documents):
    tokenizer = train_char_tokenizer(TEXTS)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="eos_token"):
        pack(documents, tokenizer, 8)
