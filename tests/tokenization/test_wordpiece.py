"""WordPiece from scratch: merges by the rule of the paper, ids and texts of the `tokenizers` library."""

import json
import random
import re
import unicodedata
from collections import Counter
from fractions import Fraction
from itertools import pairwise

import pytest
from spoiling import changed, cut_off
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from foliogpt.tokenization import WordPieceTokenizer
from foliogpt.tokenization.wordpiece import SPECIAL_TOKENS, _learn, split_words

MANY_TONGUES = (
    "北京是中华人民共和国的首都。你好,世界! 𠀀𫠠㐀豈 القاهرة هي عاصمة مِصر. नमस्ते दुनिया, भारत की राजधानी नई दिल्ली है। "
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 café cafe\u0301 CAFÉ İstanbul ΟΔΟΣ ſtraße ﬁne Ⅷ ½ ² 각 がぎ\r\n"
    "for i in range(10):\n\tprint(f'{i:>5}')\r\r\n"
    "don't I'LL 3.14 x² $5 a^b `c` \u2028\u00a0\u3000\x00\x0b\x0c\x1c\x7f\x85\u200b\u00ad\ufeff\ufffd\ue000 end \x00"
)
PLAIN = "the cat sat on the mat, and the other cat hugged the hat. " * 5


def of_the_library(ours: WordPieceTokenizer) -> Tokenizer:
    theirs = Tokenizer(models.WordPiece(ours.vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    theirs.normalizer = normalizers.BertNormalizer(lowercase=ours.lowercase)
    theirs.pre_tokenizer, theirs.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    return theirs


def assert_same(ours: WordPieceTokenizer, texts: list[str]) -> None:
    theirs = of_the_library(ours)
    for text in texts:
        ids = ours.encode(text)
        assert ids == theirs.encode(text).ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)


def pieces_by_recounting(text: str, merges: int, score) -> list[str]:
    """Train in the plainest way: count everything again for each merge."""
    words = [[word[0], *("##" + character for character in word[1:])] for word in split_words(text)]
    tokens = [*SPECIAL_TOKENS, *sorted({piece for word in words for piece in word})]
    alphabet = len(tokens)
    while len(tokens) < alphabet + merges:
        pieces = Counter(piece for word in words for piece in word)
        pairs = Counter(pair for word in words for pair in pairwise(word))
        if not pairs:
            break
        a, b = min(pairs, key=lambda p: (*score(pairs[p], *(pieces[x] for x in p)), *(tokens.index(x) for x in p)))
        for word in words:
            for i in range(len(word) - 1):
                if word[i : i + 2] == [a, b]:
                    word[i : i + 2] = [a + b[2:]]
        if a + b[2:] not in tokens:
            tokens.append(a + b[2:])
    return tokens


def likelihood(together: int, a: int, b: int) -> tuple:
    return -Fraction(together, a * b), -together


@pytest.fixture(scope="module")
def tokenizer() -> WordPieceTokenizer:
    return WordPieceTokenizer.train([MANY_TONGUES, PLAIN], 200)


def test_the_merges_are_those_of_a_trainer_that_recounts_everything():
    rng = random.Random(0)
    for letters in ("ab", "abc", "abcdefgh"):
        for _ in range(15):
            text = " ".join("".join(rng.choices(letters, k=rng.randint(1, 9))) for _ in range(30))
            expected = pieces_by_recounting(text, 10_000, likelihood)
            for size in {len(expected), (len(expected) + 25) // 2}:
                assert WordPieceTokenizer.train([text], size).tokens == expected[:size]


def test_scores_that_floats_cannot_tell_apart_are_told_apart():
    n = 10**9
    tokens = ["a", "##b", "c", "##d"]
    _learn([[0, 1], [0], [1], [2, 3], [2], [3]], [2, 2 * n - 2, n - 2, 1, n - 2, n], tokens, 5)
    assert 2 / (2 * n * n) == 1 / ((n - 1) * (n + 1))
    assert tokens[4] == "cd"  # as equals, the more frequent "ab" would be first


def test_the_library_merges_what_is_frequent_and_we_what_belongs_together():
    text = "at ate as to " * 5 + "quiz quiz"
    first = len({piece for word in text.split() for piece in [word[0], *("##" + c for c in word[1:])]})
    ours = WordPieceTokenizer.train([text], 5 + first + 3).tokens[-3:]
    theirs = Tokenizer(models.WordPiece({}, unk_token="[UNK]"))
    theirs.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    theirs.train_from_iterator([text], trainers.WordPieceTrainer(vocab_size=20, show_progress=False))
    by_id = sorted(theirs.get_vocab(), key=theirs.token_to_id)
    frequent = next(token for token in by_id if len(token.removeprefix("##")) > 1)
    assert frequent == pieces_by_recounting(text, 1, lambda together, a, b: (-together,))[-1] == "at"
    assert ours == pieces_by_recounting(text, 3, likelihood)[-3:]
    assert set(ours) <= {"qu", "##iz", "##ui", "##uiz", "qui", "quiz"}


def test_training_on_shakespeare_gives_words_and_the_ids_of_the_library(shared_data):
    path = shared_data / "shakespeare" / "input.txt"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    text = path.read_text(encoding="utf-8")[:300_000]
    for lowercase in (True, False):
        ours = WordPieceTokenizer.train([text], 1000, lowercase)
        assert len(ours) == 1000
        assert {"of", "##ck", "up"} <= set(ours.tokens)
        assert_same(ours, [text, MANY_TONGUES])


def test_the_order_of_the_texts_does_not_matter():
    lines = [*(PLAIN + MANY_TONGUES).split("\n")]
    assert WordPieceTokenizer.train(lines, 200).tokens == WordPieceTokenizer.train(lines[::-1], 200).tokens


@pytest.mark.parametrize("lowercase", [True, False])
def test_ids_are_those_of_the_library_for_random_text(lowercase):
    rng = random.Random(1)
    ours = WordPieceTokenizer.train([MANY_TONGUES, PLAIN], 200, lowercase)
    ranges = [(0, 0x7F), (0, 0x24F), (0x300, 0x6FF), (0x900, 0x97F), (0x2000, 0x206F), (0x4E00, 0x4E40), (0, 0x10FFFF)]
    known = [
        [chr(code) for code in range(first, last + 1) if unicodedata.category(chr(code)) not in ("Cs", "Cn")]
        for first, last in ranges
    ]
    texts = []
    for _ in range(3000):
        pool = [*rng.choices(rng.choice(known), k=20), *MANY_TONGUES, " "]
        texts.append("".join(rng.choices(pool, k=rng.randint(0, 40))))
    assert_same(ours, [MANY_TONGUES, PLAIN, MANY_TONGUES[::-1], *texts])


def test_the_longest_piece_comes_first_and_one_gap_makes_a_word_unknown():
    tokens = [*SPECIAL_TOKENS, "un", "##aff", "##a", "##ff", "##able", "u", "a"]
    ours = WordPieceTokenizer({token: id for id, token in enumerate(tokens)})
    pieces = [[ours.tokens[id] for id in ours.encode(word)] for word in ("unaffable", "unaffably", "Ua", "")]
    assert pieces == [["un", "##aff", "##able"], ["[UNK]"], ["u", "##a"], []]


def test_a_word_of_over_100_characters_is_unknown():
    ours = WordPieceTokenizer.train(["a" * 100], 8)
    assert ours.encode("a" * 100) != [ours.vocab["[UNK]"]]
    assert ours.encode("a" * 101) == [ours.vocab["[UNK]"]]
    assert_same(ours, ["a" * 100, "a" * 101, "é" * 100, "漢" * 101])


def test_text_that_spells_a_special_token_is_text(tokenizer):
    assert tokenizer.vocab["[CLS]"] not in tokenizer.encode("[CLS] the [UNK]")
    assert tokenizer.decode([tokenizer.vocab["[CLS]"], *tokenizer.encode("the cat.")]) == "[CLS] the cat."


def test_control_characters_leave_no_trace(tokenizer):
    assert tokenizer.encode("\x00th\x00e\x7f \x01") == tokenizer.encode("the")
    assert tokenizer.encode("the\r\ncat\r\n\n\tsat") == tokenizer.encode("the cat sat")
    assert tokenizer.encode("") == tokenizer.encode("\x00") == []


@pytest.mark.parametrize(
    ("texts", "vocab_size", "says"),
    [
        ([], 10, "only 5 tokens can be learned"),
        (["", "\x00"], 10, "only 5 tokens can be learned"),
        (["a" * 1000], 10, "only 5 tokens can be learned"),
        (["a" * 8], 100, "only 1"),
        (["some text"], 11, "no room for the 7 characters .* at least 12"),
        (["a\ud800b"], 300, "lone surrogate at position 1"),
    ],
)
def test_train_rejects_invalid_texts_and_sizes(texts, vocab_size, says):
    with pytest.raises(ValueError, match=says):
        WordPieceTokenizer.train(texts, vocab_size)


def test_train_fills_the_largest_possible_vocabulary():
    for text in (PLAIN, "a" * 8):
        with pytest.raises(ValueError, match=r"only \d+ tokens") as error:
            WordPieceTokenizer.train([text], 5000)
        supported = int(re.search(r"only (\d+) tokens", str(error.value))[1])
        assert len(WordPieceTokenizer.train([text], supported)) == supported


def test_encode_and_decode_reject_invalid_input(tokenizer):
    with pytest.raises(ValueError, match="lone surrogate at position 2"):
        tokenizer.encode("ab\udfff")
    for id in (200, -1):
        with pytest.raises(ValueError, match=f"no token {id}: ids go from 0 to 199"):
            tokenizer.decode([id])
    with pytest.raises(ValueError, match=r"must hold '\[UNK\]'"):
        WordPieceTokenizer.train([PLAIN], 50, special_tokens=["[PAD]"])


@pytest.mark.parametrize("lowercase", [True, False])
def test_save_writes_a_file_that_the_library_reads(tmp_path, lowercase):
    ours = WordPieceTokenizer.train([MANY_TONGUES], 180, lowercase)
    path = tmp_path / "tokenizer.json"
    ours.save(path)
    again, theirs = WordPieceTokenizer.from_file(path), Tokenizer.from_file(str(path))
    wrapped = PreTrainedTokenizerFast(tokenizer_file=str(path))
    assert again.to_dict() == ours.to_dict() == json.loads(theirs.to_str())
    ids = ours.encode(MANY_TONGUES)
    assert ids == again.encode(MANY_TONGUES) == theirs.encode(MANY_TONGUES).ids == wrapped(MANY_TONGUES)["input_ids"]
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)


def test_a_file_that_the_library_wrote_is_read(tokenizer, tmp_path):
    theirs = of_the_library(tokenizer)
    theirs.add_special_tokens(list(SPECIAL_TOKENS))
    theirs.save(str(tmp_path / "tokenizer.json"))
    assert WordPieceTokenizer.from_file(tmp_path / "tokenizer.json").to_dict() == tokenizer.to_dict()


ONLY_UNKNOWN = {"[UNK]": 0}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (cut_off, "is not a tokenizer.json"),
        (lambda _: "[" * 100_000, "is not a tokenizer.json"),
        (lambda _: "\x00\x01", "is not a tokenizer.json"),
        (lambda _: "[]", "not a complete tokenizer.json"),
        (lambda _: "null", "not a complete tokenizer.json"),
        (changed(model=None), "not a complete tokenizer.json"),
        (changed(normalizer=[]), "not a complete tokenizer.json"),
        (changed(model__type="BPE"), "its model is not"),
        (changed(model__continuing_subword_prefix="@@"), "its model is not"),
        (changed(model__vocab__the=3), "without a gap or a repetition"),
        (changed(model__vocab__the="3"), "whole numbers"),
        (changed(model__vocab=["[UNK]"]), "whole numbers"),
        (changed(model__vocab={}, added_tokens=[]), "not in the vocabulary"),
        (changed(model__vocab={**ONLY_UNKNOWN, "\ud800": 1}, added_tokens=[]), "lone surrogate"),
        (changed(added_tokens=[{"content": "☃", "id": 200, "special": True}]), "added token"),
        (changed(added_tokens=[{"content": "the", "id": 3, "special": False}]), "added token"),
        (changed(normalizer__strip_accents=False), "accents"),
        (changed(normalizer__type="NFC"), "its normalizer is not"),
        (changed(pre_tokenizer={"type": "Whitespace"}), "its pre_tokenizer is not"),
        (changed(truncation={"max_length": 8}), "its truncation is not"),
    ],
)
def test_from_file_rejects_other_files_in_one_line(tokenizer, tmp_path, spoil, says):
    (tmp_path / "tokenizer.json").write_text(spoil(tokenizer.to_dict()))
    with pytest.raises(ValueError, match=says) as error:
        WordPieceTokenizer.from_file(tmp_path / "tokenizer.json")
    assert "\n" not in str(error.value)
