"""The metrics and tokens that `folio tokenizer inspect` prints."""

import re

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from foliogpt.tokenization import encode_texts, train_char_tokenizer, train_tokenizer
from foliogpt.tokenization.bpe import byte_characters
from foliogpt.tokenization.inspection import (
    cells,
    columns,
    inspect,
    pieces,
    shown,
    table,
    unreachable,
    vocabulary_bytes,
)

TEXT = "".join(
    f"{a} {b} speaks of {c}.\n" for a in "abcdefgh" for b in "klmnop" for c in ("night", "day", "love", "漢字")
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([TEXT], 285, show_progress=False)


def test_inspect_counts_tokens_bytes_words_and_ids(tokenizer):
    text = TEXT + "<|im_end|>"
    (ids,) = encode_texts(tokenizer, [text])
    found = inspect(tokenizer, text, "ours")
    assert (found.tokens, found.num_bytes, found.words) == (len(ids), len(text.encode()), len(text.split()))
    assert (found.used, found.vocabulary) == (len(set(ids)), 285)
    assert max(map(len, found.longest)) == len(found.longest[0])


def test_a_long_text_is_counted_in_pieces_that_lose_nothing():
    for text in (TEXT * 3, "x" * 1000, "\n" * 50, "", "a\n" + "b" * 70 + "\nc"):
        parts = list(pieces(text, 64))
        assert "".join(parts) == text
        assert all(0 < len(part) <= 64 for part in parts)


def test_every_token_is_spelled_in_bytes(tokenizer):
    spelled = vocabulary_bytes(tokenizer)
    assert sorted(spelled) == list(range(285))
    (ids,) = encode_texts(tokenizer, [TEXT + "é😊"])
    assert b"".join(spelled[id] for id in ids).decode() == TEXT + "é😊"
    assert spelled[tokenizer.eos_token_id] == b"<|endoftext|>"
    assert vocabulary_bytes(train_char_tokenizer(["é\n"]))[5] == b"\n"


def test_unreachable_finds_tokens_that_no_text_gives():
    characters = byte_characters()
    vocab = {character: id for id, character in enumerate(characters)}
    vocab |= {"ab": 256, "abc": 257, "xy": 258, "aĠ": 259, "ĠĠ": 260}
    merges = [("a", "b"), ("ab", "c"), ("a", "Ġ"), ("Ġ", "Ġ")]  # nothing makes "xy", and no word ends in a space
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    never = [0xC0, 0xC1, *range(0xF5, 0x100)]
    assert unreachable(tokenizer) == [*never, 258, 259]


def test_cells_show_text_ids_and_bytes(tokenizer):
    text = "a k speaks of 漢字.\n\t" + "\x1b[31m"
    plain, colored = (cells(tokenizer, text, 100, colors=colors, width=60) for colors in (False, True))
    assert "\x1b" not in plain
    (ids,) = encode_texts(tokenizer, [text])
    shown_ids = [
        int(number) for line in plain.splitlines()[1:] if re.fullmatch(r"[\d ]+", line) for number in line.split()
    ]
    assert [id for id in ids if id in shown_ids] == ids
    assert all(columns(line) <= 60 for line in plain.splitlines())
    assert "\x1b[31m" not in colored, "the text cannot steer the terminal"
    assert len(cells(tokenizer, TEXT * 100, 50, colors=False, width=80).splitlines()) < 100


def test_shown_makes_invisible_characters_visible():
    assert shown(b" a\n\t\r\x1b\xe2") == "\\x20a\\x0a\\x09\\x0d\\x1b\\xe2"
    assert shown(" é\n\t\r\x1b\u200b".encode()) == "·é⏎→␍\\x1b\\u200b"


def test_the_table_has_a_column_for_each_tokenizer(tokenizer):
    found = [inspect(tokenizer, TEXT, "ours"), inspect(train_char_tokenizer([TEXT]), TEXT, "characters")]
    head, *lines = table(found).splitlines()
    assert head.replace("|", "").split() == ["ours", "characters"]
    assert found[1].tokens == len(TEXT)
    assert f"{len(TEXT):,}" in next(line for line in lines if line.startswith("| tokens "))
