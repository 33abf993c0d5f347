"""Bits per byte are those of the text, whatever the blocks and batches."""

import math
import zlib

import pytest
import torch
from datasets import Dataset

from foliogpt.data.packing import PackedCollator, pack
from foliogpt.evaluation.bits_per_byte import bits_per_byte, compression_baselines, total_loss
from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.tokenization import train_char_tokenizer

TEXTS = ["abcdefgh" * 3, "hgfedcba", "aaaa"]


def test_a_uniform_model_needs_log2_of_the_vocabulary_per_token():
    tokenizer = train_char_tokenizer(TEXTS)
    model = FolioForCausalLM(preset_config("gpt2", "nano", vocab_size=len(tokenizer), max_position_embeddings=64))
    torch.nn.init.zeros_(model.lm_head.weight)
    documents = Dataset.from_dict({"name": ["a", "b", "c"], "text": TEXTS})
    blocks = pack(documents, tokenizer, 10)
    nats, count = total_loss(model, blocks, PackedCollator(tokenizer.eos_token_id), batch_size=3)
    assert count == sum(map(len, TEXTS)) + len(TEXTS)  # characters and ends of documents
    assert bits_per_byte(nats, 36) == pytest.approx(count * math.log2(len(tokenizer)) / 36, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_loss_of_a_document_does_not_depend_on_its_neighbors_or_the_batch(batch_size):
    torch.manual_seed(0)
    tokenizer = train_char_tokenizer(TEXTS)
    config = preset_config("folio", "nano", vocab_size=len(tokenizer), initializer_range=0.3)
    model, collator = FolioForCausalLM(config), PackedCollator(tokenizer.eos_token_id)

    def loss(texts):
        documents = Dataset.from_dict({"name": texts, "text": texts})
        return total_loss(model, pack(documents, tokenizer, 64), collator, batch_size)[0]

    assert loss(TEXTS) == pytest.approx(sum(loss([text]) for text in TEXTS), rel=1e-4)


def test_compressors_are_charged_for_the_held_out_text_alone():
    train = ["the quick brown fox jumps over the lazy dog. " * 50]
    seen, unseen = ["the quick brown fox"], ["zyxwv 12345 @#$%^ QWERTY"]
    assert compression_baselines(train, seen)["zlib"] < compression_baselines(train, unseen)["zlib"]
    both = zlib.compress((train[0] + "\0" + unseen[0]).encode(), 9)
    expected = 8 * (len(both) - len(zlib.compress(train[0].encode(), 9))) / len(unseen[0])
    assert compression_baselines(train, unseen)["zlib"] == pytest.approx(expected)
