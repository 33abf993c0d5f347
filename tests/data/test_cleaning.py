"""Each step of cleaning changes what it says, counts it, and leaves the rest alone."""

import json
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foliogpt.data.cleaning import (
    STEPS,
    normalize_newlines,
    normalize_unicode,
    normalize_whitespace,
    preprocess,
    remove_control_characters,
)
from foliogpt.scripts.cli import main

UNTOUCHED = "def f(x):\n\treturn  x  # 漢字\u3000नमस्ते مرحبا\n\n\n👩‍👩‍👧 🏳️‍🌈 é \u200c\u200d end"


@pytest.mark.parametrize(
    ("step", "text", "expected", "count"),
    [
        (normalize_unicode, "cafe\u0301 \u212b e\u0301", "café \u00c5 é", 3),
        (normalize_unicode, "\u1112\u1161\u11ab", "한", 1),
        (normalize_newlines, "a\r\nb\rc\n\rd\x85e\u2028f\fg", "a\nb\nc\n\nd\ne\nf\ng", 6),
        (remove_control_characters, "a\x00\x1b[31mb\x7f\ufeff\ud800\uffff", "a[31mb", 6),
        (normalize_whitespace, "a\xa0b \t\n c  d\u2003\n\n\n\n\ne ", "a b\n c  d\n\n\ne", 6),
    ],
)
def test_a_step_changes_and_counts_its_characters(step, text, expected, count):
    assert step(text) == (expected, count)
    assert step(expected) == (expected, 0)


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_a_step_leaves_good_text_alone(step):
    assert step(UNTOUCHED) == (UNTOUCHED, 0)


def test_a_text_is_cut_into_documents_at_separators():
    cleaned, report = preprocess([("a", "one<|endoftext|>two"), ("b", "three")], "<|endoftext|>")
    assert cleaned == [("a#1", "one"), ("a#2", "two"), ("b", "three")]
    assert (report.boundaries, report.before["documents"], report.after["documents"]) == (1, 2, 3)
    with pytest.raises(ValueError, match="--separator is empty"):
        preprocess([("a", "one")], "")


PROSE = " ".join(f"word{number}" for number in range(100))


def test_the_report_lists_changes_and_dropped_documents():
    documents = [
        ("a", PROSE + "\r\n"),
        ("b", PROSE + "\n"),
        ("c", PROSE.replace("word99", "other")),
        ("d", "\x00 \n"),
        ("e", "cafe\u0301---au lait---"),
    ]
    cleaned, report = preprocess(documents, separator="---")
    assert cleaned == [("a", PROSE + "\n"), ("e#1", "café"), ("e#2", "au lait")]
    assert report.dropped == {"empty": ["d", "e#3"], "duplicate": ["b"], "near duplicate": ["c"]}
    assert (report.before["documents"], report.after["documents"], report.boundaries) == (5, 3, 2)
    assert report.after["characters"] == len(PROSE) + 1 + 4 + 7
    assert report.after["bytes"] == report.after["characters"] + 1
    assert report.changes == {"newlines": 1, "control characters": 1, "whitespace": 1, "Unicode NFC": 1}
    lines = report.table().splitlines()
    assert next(line for line in lines if "near duplicate" in line).split() == ["|", "near", "duplicate", "|", "1", "|"]
    assert json.loads(json.dumps(asdict(report)))["before"]["documents"] == 5


def test_near_duplicates_can_be_kept():
    documents = [("a", PROSE), ("b", PROSE.replace("word99", "other")), ("c", PROSE)]
    assert [name for name, _ in preprocess(documents, near_duplicates=None)[0]] == ["a", "b"]
    with pytest.raises(ValueError, match="threshold must be"):
        preprocess(documents, near_duplicates=2)


@settings(max_examples=500, deadline=None)
@given(text=st.text(st.characters() | st.sampled_from("\r\n \t\xa0\u0301e\x00\ufeff")))
def test_preprocess_keeps_clean_documents_as_they_are(text):
    cleaned, _ = preprocess([("a", text)])
    again, report = preprocess(cleaned)
    assert again == cleaned
    assert not any(report.changes.values())


# The command


def test_a_corpus_is_cleaned_and_trained_on(tmp_path, capsys):
    text = "One two three, the cat is free; four five six, the dog has tricks.\r\n" * 200
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "b.txt").write_bytes(text.encode())
    folder = tmp_path / "clean"
    assert main(["clean", "--corpus", f"{tmp_path}/*.txt", "--output_dir", str(folder)]) == 0
    assert "duplicate" in capsys.readouterr().out
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows == [{"name": "a.txt", "text": text.replace("\r\n", "\n")}]
    assert json.loads((folder / "report.json").read_text())["dropped"]["duplicate"] == ["b.txt"]
    argv = ["tokenizer", "train", "--corpus", str(folder / "corpus.jsonl"), "--vocab_size", "270"]
    assert main([*argv, "--output_dir", str(tmp_path / "tokenizer")]) == 0
    assert main(["clean", "--corpus", str(tmp_path / "a.txt"), "--output_dir", str(folder)]) == 2
    assert "--overwrite" in capsys.readouterr().err
