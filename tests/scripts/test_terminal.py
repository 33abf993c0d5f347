"""No text of a model, a file or a user controls the terminal, whichever command prints it."""

import contextlib
import io
import json
import sys

import pytest
import torch
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification

from foliogpt.modeling import preset_config
from foliogpt.scripts.cli import main
from foliogpt.scripts.terminal import TextStream, text_streams
from foliogpt.tokenization import train_tokenizer

HOSTILE = "\x1b[2J\x1b]0;title\x07\x9b31m\x7fa\rb"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> str:
    """A model whose labels are hostile."""
    tokenizer = train_tokenizer(["one two three"] * 50, vocab_size=265, show_progress=False)
    torch.manual_seed(0)
    config = preset_config(
        "llama", "nano", vocab_size=265, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=16, max_position_embeddings=32, pad_token_id=tokenizer.pad_token_id,
        id2label={0: f"good{HOSTILE}", 1: f"bad{HOSTILE}"}, label2id={"good": 0, "bad": 1},
    )  # fmt: skip
    folder = str(tmp_path_factory.mktemp("labels") / "model")
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def steers(said: str) -> bool:
    return any(not (each.isprintable() or each in "\n\t") for each in said)


def test_output_shows_control_characters_as_escapes(classifier, capsys):
    assert main(["classify", "--model", classifier, "--text", HOSTILE]) == 0
    said = capsys.readouterr().out
    assert "\\u001b[2J" in said
    assert not steers(said)
    assert main(["classify", "--model", classifier, "--text", HOSTILE, "--json"]) == 0
    said = capsys.readouterr().out
    assert not steers(said)
    assert json.loads(said)["text"] == HOSTILE


@pytest.mark.parametrize(
    "argv",
    [
        [HOSTILE], ["generate", "--model", HOSTILE, "--prompt", "a"], ["push", HOSTILE, "--repo_id", "me/x"],
        ["classify", "--model", "x", "--file", HOSTILE], ["generate", f"--{HOSTILE}", "1"],
    ],
    ids=["command", "model", "push", "file", "option"],
)  # fmt: skip
def test_errors_show_control_characters_as_escapes(argv, capsys):
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert said.startswith("folio ")
    assert not steers(said)


def test_stream_replaces_characters_outside_the_encoding_and_keeps_progress_bars():
    raw = io.BytesIO()
    stream = TextStream(io.TextIOWrapper(raw, "cp1252", write_through=True), bars=True)
    print("ä 漢 \udc9b \x1b[A", file=stream)
    assert raw.getvalue().decode("cp1252") == "ä \\u6f22 \\udc9b \\u001b[A\n"
    stream.writelines(["\x1b[2J", "b\n"])
    assert raw.getvalue().endswith(b"\\u001b[2Jb\n")
    plain, filtered = io.StringIO(), io.StringIO()
    for file, wrapped in ((plain, plain), (filtered, TextStream(filtered, bars=True))):
        with tqdm(range(2), file=wrapped, ascii=True, bar_format="{desc}") as outer:
            for _ in outer:
                list(tqdm(range(2), file=wrapped, ascii=True, bar_format="{desc}", position=1))
        assert "\x1b[A" in file.getvalue()
    assert filtered.getvalue() == plain.getvalue()


def test_text_streams_restores_the_streams():
    streams = sys.stdout, sys.stderr
    with contextlib.suppress(KeyError), text_streams():
        assert sys.stdout.isatty() is streams[0].isatty()
        raise KeyError
    assert (sys.stdout, sys.stderr) == streams
