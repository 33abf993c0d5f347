import codecs
import gzip
import logging
import random

import pytest

from foliogpt.data.preprocessing import decode, drop_duplicates

FRENCH = "Le garçon préfère les oeufs à la crème brûlée ; où êtes-vous né, mon élève ? Ça ne fait rien."
PROSE = " ".join(f"word{number}" for number in range(100))


@pytest.mark.parametrize(
    "data",
    [
        "naïve 🦊".encode(),
        "naïve 🦊".encode("utf-8-sig"),
        "naïve 🦊".encode("utf-16"),
        "naïve 🦊".encode("utf-32"),
        codecs.BOM_UTF16_BE + "naïve 🦊".encode("utf-16-be"),
        codecs.BOM_UTF32_BE + "naïve 🦊".encode("utf-32-be"),
    ],
)
def test_unicode_is_decoded_without_its_byte_order_mark_or_a_warning(data, caplog):
    assert decode(data) == "naïve 🦊"
    assert not caplog.records


def test_decode_returns_an_empty_text_for_no_bytes():
    assert decode(b"") == ""


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (FRENCH, "latin-1"),
        (FRENCH, "cp1252"),
        ("Il a déjà mangé 5 pommes; ça suffit, n'est-ce pas? " * 4, "cp1252"),
        ("El niño comió piñas en España; ¿qué más? " * 4, "cp1252"),
        ("“Naïve” isn’t it? £5. " + "Plain English goes on for a while. " * 10, "cp1252"),
        (
            "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.",
            "cp1251",
        ),
        ("Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.", "cp1250"),
        ("吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。", "shift_jis"),
    ],
)
def test_other_encodings_are_recognized_and_the_guess_is_logged(text, encoding, caplog):
    with caplog.at_level(logging.WARNING):
        assert decode(text.encode(encoding), "old.txt") == text
    assert "old.txt is not UTF-8 from the byte at offset " in caplog.text


def test_a_few_stray_bytes_in_a_long_file_are_read_as_western():
    text = "Plain English goes on for a while.\n" * 30_000 + "and then I–\nsaid –\n" + "And so on.\n" * 30_000
    assert decode(text.encode("cp1252")) == text


def test_a_real_file_is_decoded_from_the_encoding_it_was_published_in(shared_data):
    text = (shared_data / "movie_dialogs" / "movie_lines.txt").read_text(encoding="utf-8")
    text = text.replace("\ufffd", "–")  # what was lost when the copy here was made UTF-8
    assert text.count("–") == 46
    assert decode(text.encode("cp1252")) == text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"text\0more", "photo.jpg is not text (a NUL byte at offset 4); give a text"),
        (b"caf\xe9\0more", "photo.jpg is not text (a NUL byte at offset 4); give a text"),
        (gzip.compress(PROSE.encode()), "photo.jpg is not text (a NUL byte at offset 3)"),
        (random.Random(0).randbytes(5000).replace(b"\0", b""), "photo.jpg is not text .* control bytes"),
        (codecs.BOM_UTF16_LE + b"a", "mark of utf-16 but is not valid utf-16"),
    ],
)
def test_decode_rejects_binary_data_in_one_line(data, reason):
    with pytest.raises(ValueError, match=reason.replace("(", r"\(").replace(")", r"\)")) as caught:
        decode(data, "photo.jpg")
    assert "\n" not in str(caught.value)


def test_decode_rejects_unknown_encodings_with_the_first_bad_byte(monkeypatch):
    monkeypatch.setattr("foliogpt.data.preprocessing._guess_encoding", lambda data: None)
    with pytest.raises(ValueError, match="first byte that is not UTF-8 is at offset 3; save it as UTF-8"):
        decode(b"caf\xe9", "old.txt")


def test_the_first_of_equal_texts_is_kept():
    assert drop_duplicates(["a", "b", "a", "c", "b", "a"]) == [True, True, False, True, False, False]


def test_the_first_of_nearly_equal_texts_is_kept():
    edited = PROSE.replace("word50", "changed")
    kept = drop_duplicates([PROSE, "something else", edited, PROSE.upper(), edited])
    assert kept == [True, True, False, False, False]


def test_texts_that_share_half_of_their_words_are_both_kept():
    words = PROSE.split()
    assert all(drop_duplicates([PROSE, " ".join(words[:50] + ["other"] * 50)]))


def test_near_duplicates_just_above_the_threshold_are_found():
    """The library's default bands miss most of these."""
    rng = random.Random(0)
    texts = []
    for _ in range(50):
        words = [f"w{rng.randrange(10**6)}" for _ in range(100)]
        # 91 of 101 shingles are shared: a similarity of 0.9.
        texts += [" ".join(words), " ".join([*words[:95], *(f"x{i}" for i in range(5))])]
    assert drop_duplicates(texts) == [True, False] * 50


def test_short_texts_are_only_dropped_if_they_are_equal():
    texts = ["", "Yes.", "yes.", "No.", "Same as a + b.", "Same as a - b.", "Return x.", "Return y."]
    assert all(drop_duplicates(texts))
    assert drop_duplicates([*texts, "Yes.", ""]) == [True] * len(texts) + [False] * 2


def test_near_duplicates_are_found_where_words_are_not_spaced():
    text = "".join(chr(0x4E00 + number * 7) for number in range(200))
    assert drop_duplicates([text, text.replace(text[100], "a"), text[::-1]]) == [True, False, True]


def test_dropping_duplicates_twice_gives_the_same_and_then_nothing_more():
    texts = [PROSE, PROSE + " more", "a", "a", PROSE[::-1]]
    first = drop_duplicates(texts)
    assert first == drop_duplicates(texts)
    kept = [text for text, keep in zip(texts, first, strict=True) if keep]
    assert all(drop_duplicates(kept))


@pytest.mark.parametrize("threshold", [0, -1, 1.1])
def test_drop_duplicates_rejects_a_threshold_that_is_no_similarity(threshold):
    with pytest.raises(ValueError, match=f"threshold must be .* got {threshold}"):
        drop_duplicates(["a"], threshold=threshold)
