"""Packing: every token is predicted exactly once, and documents stay apart."""

import pytest
import torch
from datasets import Dataset

from foliogpt.tokenization import train_char_tokenizer
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
    assert all(len(block["input_ids"]) == len(block["labels"]) == block_size for block in blocks)
    predicted = [i for block in blocks for i in block["labels"][1:] if i != IGNORED]
    assert tokenizer.decode(predicted) == "<|endoftext|>".join(TEXTS) + "<|endoftext|>"


def test_the_first_document_follows_an_end_of_text_like_all_others(documents, tokenizer):
    assert pack(documents, tokenizer, 4)[0]["input_ids"][0] == tokenizer.eos_token_id


def test_positions_begin_with_each_document(documents, tokenizer):
    eos = tokenizer.eos_token_id
    batch = PackedCollator(eos)([{"input_ids": [9, 9, eos, 9, 9, eos, eos, 9], "labels": [0] * 8}])
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2, 0, 0, 1]]
    assert batch["input_ids"].dtype == torch.long


def test_a_block_of_one_token_is_refused(documents, tokenizer):
    with pytest.raises(ValueError, match="at least 2"):
        pack(documents, tokenizer, 1)


def test_a_tokenizer_without_end_of_text_is_refused(documents):
    tokenizer = train_char_tokenizer(TEXTS)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="eos_token"):
        pack(documents, tokenizer, 8)
