"""BPE from scratch gives the merges and ids of the `tokenizers` library, and every text back."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spoiling import changed, cut_off
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from foliogpt.data.python_manual import python_manual
from foliogpt.tokenization import BPETokenizer, train_tokenizer
from foliogpt.tokenization.bpe import LONGEST_CACHED, PATTERNS

MANY_TONGUES = (
    "北京是中华人民共和国的首都。你好,世界! القاهرة هي عاصمة مصر. नमस्ते दुनिया, भारत की राजधानी नई दिल्ली है। "
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 café cafe\u0301 İstanbul ﬁne Ⅷ ½ ²\r\nfor i in range(10):\n\tprint(f'{i:>5}')\r\r\n\n   \n"
    "don't I'LL we've 12345 3.14 x²+y² __init__ --flag=1 \u2028\u00a0\u3000\x00\x1c\x85 end  "
)
SPECIAL = ["<|endoftext|>", "<|pad|>"]


def of_the_library(texts: list[str], vocab_size: int, pattern: str = "gpt2") -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pattern != "gpt2":
        cut = pre_tokenizers.Split(Regex(PATTERNS[pattern]), "isolated")
        byte_level = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.pre_tokenizer, tokenizer.decoder = byte_level, decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def assert_same(ours: BPETokenizer, theirs: Tokenizer, texts: list[str]) -> None:
    model = json.loads(theirs.to_str())["model"]
    assert ours.to_dict()["model"]["merges"] == model["merges"]
    assert ours.to_dict()["model"]["vocab"] == model["vocab"]
    for text in texts:
        ids = ours.encode(text)
        assert ids == theirs.encode(text).ids
        assert ours.decode(ids) == text


@pytest.fixture(scope="session")
def manual() -> list[str]:
    return [text for _, text in python_manual()]


@pytest.fixture(scope="session")
def tokenizer(manual) -> BPETokenizer:
    return BPETokenizer.train([*manual[:400], MANY_TONGUES], 1000, special_tokens=SPECIAL)


@pytest.mark.slow
@pytest.mark.parametrize("vocab_size", [300, 1000, 4096, 16_384])
def test_merges_and_ids_are_those_of_the_library_on_the_manual(manual, vocab_size):
    ours = BPETokenizer.train(manual, vocab_size, special_tokens=SPECIAL)
    assert_same(ours, of_the_library(manual, vocab_size), [*manual[::50], MANY_TONGUES])


@pytest.mark.slow
@pytest.mark.parametrize("vocab_size", [300, 1000, 4096, 16_384])
def test_merges_and_ids_are_those_of_the_library_on_shakespeare(shared_data, vocab_size):
    text = (shared_data / "shakespeare" / "input.txt").read_text(encoding="utf-8")
    assert_same(
        BPETokenizer.train([text], vocab_size, special_tokens=SPECIAL), of_the_library([text], vocab_size), [text]
    )


@pytest.mark.parametrize("pattern", PATTERNS)
def test_merges_and_ids_are_those_of_the_library_in_many_tongues(pattern):
    texts = [MANY_TONGUES * 2, MANY_TONGUES[::-1]]
    for vocab_size in (300, 450):
        ours = BPETokenizer.train(texts, vocab_size, pattern=pattern, special_tokens=SPECIAL)
        assert_same(ours, of_the_library(texts, vocab_size, pattern), texts)


def test_ties_and_repetitions_are_resolved_as_in_the_library():
    rng = random.Random(0)
    for _ in range(40):
        texts = ["".join(rng.choices("ab ", k=40)) for _ in range(6)]
        supported = of_the_library(texts, 400).get_vocab_size()
        for vocab_size in {261, (258 + supported) // 2, supported} - {258}:
            if vocab_size <= supported:
                ours = BPETokenizer.train(texts, vocab_size, special_tokens=SPECIAL)
                assert_same(ours, of_the_library(texts, vocab_size), texts)


def test_long_pieces_are_merged_as_short_ones(tokenizer):
    rng = random.Random(1)
    theirs = Tokenizer.from_str(json.dumps(tokenizer.to_dict()))
    for letters in ("a", "ab", "the", "tion", "abcdefgh"):
        for length in (LONGEST_CACHED - 1, LONGEST_CACHED, 5 * LONGEST_CACHED):
            text = "".join(rng.choices(letters, k=length))
            assert tokenizer.encode(text) == theirs.encode(text).ids


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(text=st.text())
def test_every_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_bytes(text.encode()) == ids


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(data=st.binary())
def test_all_bytes_come_back(tokenizer, data):
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data


def test_text_that_spells_a_special_token_is_text(tokenizer):
    for token in SPECIAL:
        ids = tokenizer.encode(f"a{token}b")
        assert not set(ids) & set(tokenizer.special.values())
        assert tokenizer.decode(ids) == f"a{token}b"
    assert tokenizer.decode([tokenizer.special["<|endoftext|>"]]) == "<|endoftext|>"


@pytest.mark.parametrize("pattern", PATTERNS)
def test_save_writes_a_file_that_the_library_reads(tmp_path, pattern):
    ours = BPETokenizer.train([MANY_TONGUES], 300, pattern=pattern, special_tokens=SPECIAL)
    ours.save(tmp_path / "tokenizer.json")
    again = BPETokenizer.from_file(tmp_path / "tokenizer.json")
    assert again.to_dict() == ours.to_dict()
    wrapped = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert ours.encode(MANY_TONGUES) == again.encode(MANY_TONGUES) == wrapped(MANY_TONGUES)["input_ids"]


def test_the_tokenizer_of_a_checkpoint_is_read(manual, tmp_path):
    production = train_tokenizer(manual[:400], 500, show_progress=False)
    production.save_pretrained(tmp_path)
    ours = BPETokenizer.from_file(tmp_path / "tokenizer.json")
    for text in (*manual[400:430], MANY_TONGUES):
        assert ours.encode(text) == production(text)["input_ids"]


class Counting(dict):
    """Counts how often a pair is looked up."""

    lookups = 0

    def get(self, *args):
        self.lookups += 1
        return super().get(*args)


def test_a_long_line_without_a_space_takes_work_in_proportion_to_its_length(tokenizer, monkeypatch):
    ranks = Counting(tokenizer._ranks)
    monkeypatch.setattr(tokenizer, "_ranks", ranks)
    line = "".join(random.Random(2).choices("etaoin", k=100_000))
    assert tokenizer.decode(tokenizer.encode(line)) == line
    assert ranks.lookups < 10 * len(line)


@pytest.mark.parametrize(
    ("texts", "vocab_size", "says"),
    [
        ([], 300, "only 258"),
        ([""], 300, "only 258"),
        (["a" * 1000], 300, "tokens can be learned from it"),
        (["some text"], 257, "at least 258"),
        (["a\ud800b"], 300, "lone surrogate at position 1"),
    ],
)
def test_train_rejects_invalid_texts_and_sizes(texts, vocab_size, says):
    with pytest.raises(ValueError, match=says):
        BPETokenizer.train(texts, vocab_size, special_tokens=SPECIAL)


def test_encode_and_decode_reject_invalid_input(tokenizer):
    with pytest.raises(ValueError, match="lone surrogate at position 2"):
        tokenizer.encode("ab\udfff")
    with pytest.raises(ValueError, match="no token 5000: ids go from 0 to 999"):
        tokenizer.decode([5000])
    with pytest.raises(ValueError, match="gpt2, llama3"):
        BPETokenizer.train(["text"], 300, pattern="gpt9")
    assert tokenizer.encode("") == []


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (cut_off, "is not a tokenizer.json"),
        (lambda _: "[" * 100_000, "is not a tokenizer.json"),
        (lambda _: "[]", "not a complete tokenizer.json"),
        (lambda _: "\x00\x01", "is not a tokenizer.json"),
        (changed(model__type="WordPiece"), "only a BPE model"),
        (changed(model__merges=None), "not a complete tokenizer.json"),
        (changed(model__merges=[["a", "☃"]]), "not a complete tokenizer.json"),
        (changed(model__merges=[["a", "b", "c"]]), "cannot be read"),
        (changed(model__merges=[["Q", "Z"]]), "not in the vocabulary"),
        (changed(model__vocab__a=3), "without a gap or a repetition"),
        (changed(model__vocab={"a": 2}, model__merges=[]), "no token for the byte"),
        (changed(model__byte_fallback=True), "byte_fallback"),
        (changed(normalizer={"type": "NFKC"}), "without a normalizer"),
        (changed(pre_tokenizer={"type": "Whitespace"}), "pre-tokenizer"),
    ],
)
def test_from_file_rejects_other_files_in_one_line(tokenizer, tmp_path, spoil, says):
    (tmp_path / "tokenizer.json").write_text(spoil(tokenizer.to_dict()))
    with pytest.raises(ValueError, match=says) as error:
        BPETokenizer.from_file(tmp_path / "tokenizer.json")
    assert "\n" not in str(error.value)
