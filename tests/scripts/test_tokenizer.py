"""`folio tokenizer inspect` as a user meets it, with spoiled files."""

import json
import shutil

import pytest
from transformers import AutoTokenizer

from foliogpt.scripts.cli import main
from foliogpt.tokenization import train_tokenizer

TEXT = "One two three, the cat is free; four five six, the dog has tricks.\n" * 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([TEXT], 290, show_progress=False).save_pretrained(folder)
    return folder


def error_of(capsys, argv: list[str]) -> str:
    capsys.readouterr()
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_a_text_is_shown_with_its_figures_beside_another_tokenizer(folder, capsys):
    assert main(["tokenizer", "inspect", "the dog", "--tokenizer", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "the text itself: 7 characters, 7 bytes" in out
    assert "\x1b" not in out
    assert main(["tokenizer", "inspect", "the dog", "--vs", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.count("longest tokens here") == 2
    assert "4,096" in out
    assert "290" in out


@pytest.mark.parametrize("text", ["-abc", "--vs", "-5", "-a b"])
def test_a_text_that_begins_with_a_dash_comes_last(text, folder, capsys):
    assert main(["tokenizer", "inspect", "--tokenizer", str(folder), "--", text]) == 0
    assert f"the text itself: {len(text)} characters" in capsys.readouterr().out


def test_inspect_prints_json_alone(folder, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("the dog, the cat")
    assert main(["tokenizer", "inspect", str(tmp_path / "text.txt"), "--tokenizer", str(folder), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    ids = AutoTokenizer.from_pretrained(folder)("the dog, the cat")["input_ids"]
    assert (found["tokens"], found["num_bytes"], found["used"]) == (len(ids), 16, len(set(ids)))


def test_inspect_prints_the_beginning_of_a_large_file(folder, tmp_path, capsys):
    (tmp_path / "large.txt").write_text(TEXT * 300)
    assert main(["tokenizer", "inspect", str(tmp_path / "large.txt"), "--tokenizer", str(folder)]) == 0
    out = capsys.readouterr().out
    assert len(out) < 10_000
    assert f"{len(TEXT) * 300:,} characters" in out


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "required: TEXT|FILE"),
        (["--tokenizer", "{folder}"], "required: TEXT|FILE"),
        ([""], "The text is empty"),
        (["{folder}"], "is a folder"),
        (["a\ud800"], "lone surrogate at position 1"),
        (["text", "--tokenizer", "nowhere"], "nowhere is not a tokenizer's directory"),
        (["text", "--vs", "{binary}"], "is not a tokenizer's directory"),
        (["{binary}"], "is not text"),
        (["text", "--tokeniser", "{folder}"], "--tokeniser"),
        (["-abc"], "There is no option '-abc': write a value as --name=-abc, a text or a path last, after"),
        (["-vs", "{folder}"], "did you mean --vs?"),
        (["--", "-abc", "--tokenizer", "{folder}"], '--tokenizer comes after "--": put options before it'),
    ],
)
def test_inspect_rejects_invalid_input_in_one_line(argv, says, folder, tmp_path, capsys):
    (tmp_path / "binary").write_bytes(b"\x89PNG\r\n\x00\x00")
    names = {"folder": str(folder), "binary": str(tmp_path / "binary")}
    argv = [word.format(**names) if word.startswith("{") else word for word in argv]
    assert says in error_of(capsys, ["tokenizer", "inspect", *argv])


def spoil(data: dict, **model) -> str:
    return json.dumps({**data, "model": {**data["model"], **model}})


SLOW_PATTERN = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize(
    "hostile",
    [
        lambda data: json.dumps(data)[:-40],
        lambda data: "",
        lambda data: "[" * 100_000,
        lambda data: "[]",
        lambda data: spoil(data, type="Llama"),
        lambda data: spoil(data, vocab={}),
        lambda data: spoil(data, merges=[["a", "b", "c"]]),
        lambda data: spoil(data, merges=[["Q", "ZZZ"]]),
        lambda data: spoil(data, vocab={"a": -1}),
        lambda data: spoil(data, vocab={"a": 2**40}, merges=[]),
        lambda data: json.dumps({**data, "added_tokens": [{"id": 3}]}),
        lambda data: json.dumps({**data, "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}}}),
    ],
    ids=range(12),
)
def test_a_hostile_tokenizer_is_refused_in_one_line(hostile, folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "hostile")
    data = json.loads((folder / "tokenizer.json").read_text())
    (tmp_path / "hostile" / "tokenizer.json").write_text(hostile(data))
    line = error_of(capsys, ["tokenizer", "inspect", TEXT, "--tokenizer", str(tmp_path / "hostile")])
    assert "hostile" in line


@pytest.mark.parametrize(
    "strange",
    [
        lambda data: json.dumps({**data, "pre_tokenizer": SLOW_PATTERN}),
        lambda data: json.dumps({**data, "decoder": None}),
        lambda data: json.dumps({**data, "pre_tokenizer": None}),
        lambda data: json.dumps({**data, "added_tokens": []}),
        lambda data: spoil(data, vocab={**data["model"]["vocab"], "beyond": 10**6}),
    ],
    ids=range(5),
)
def test_a_strange_tokenizer_ends_in_an_answer_or_one_line(strange, folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "strange")
    data = json.loads((folder / "tokenizer.json").read_text())
    (tmp_path / "strange" / "tokenizer.json").write_text(strange(data))
    argv = ["tokenizer", "inspect", "a" * 40 + "!", "--tokenizer", str(tmp_path / "strange")]
    assert main(argv) in (0, 2)
    assert len(capsys.readouterr().err.splitlines()) <= 1


def test_code_that_comes_with_a_tokenizer_is_not_run(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "hostile")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": [None, "evil.Evil"]}}
    (tmp_path / "hostile" / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "hostile" / "evil.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\nclass Evil: pass\n")
    main(["tokenizer", "inspect", "text", "--tokenizer", str(tmp_path / "hostile")])
    assert not (tmp_path / "run").exists()


def test_a_vocabulary_is_never_taken_for_one_of_another_command(folder, capsys):
    assert "choose train, inspect." in error_of(capsys, ["tokenizer", "dance"])
    assert main(["tokenizer"]) == 0
    assert "folio tokenizer inspect" in capsys.readouterr().out
