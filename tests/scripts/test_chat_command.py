"""`folio chat` and `folio summarize` as people type them, at a terminal and through pipes."""

import json
import os
import pty
import select
import signal
import sys
import time

import forks
import pytest
import torch

from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.scripts.cli import main
from foliogpt.scripts.terminal import CONTROL
from foliogpt.tokenization import train_tokenizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    tokenizer = train_tokenizer(["one two three, the cat is free; äöü"] * 200, vocab_size=280, show_progress=False)
    torch.manual_seed(0)
    config = preset_config(
        "folio", "nano", vocab_size=280, hidden_size=32, num_hidden_layers=2, intermediate_size=48,
        max_position_embeddings=400, residual_init="normal", initializer_range=0.5, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = FolioForCausalLM(config)
    model.generation_config.update(suppress_tokens=tokenizer.all_special_ids)
    folder = str(tmp_path_factory.mktemp("chat") / "model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _lines(capsys) -> list[str]:
    """What was said on stderr, but for progress bars, which are off in a process of its own."""
    return [line for line in capsys.readouterr().err.splitlines() if line and "%|" not in line]


@pytest.fixture
def typed(monkeypatch):
    """Lines as if they came through a pipe."""

    def give(text: str) -> None:
        monkeypatch.setattr("sys.stdin", open(os.memfd_create("typed"), "w+", encoding="utf-8"))  # noqa: SIM115
        sys.stdin.write(text)
        sys.stdin.seek(0)

    return give


def test_a_chat_through_a_pipe_answers_each_line_and_is_saved_as_training_data(checkpoint, tmp_path, typed, capsys):
    file = tmp_path / "chat.jsonl"
    typed(f"one\ntwo\n/save {file}\n/save {file}\n/dance\n/reset\nthree\n/save {tmp_path / 'second'}\n/quit\nnever\n")
    assert main(["chat", "--model", checkpoint, "--system", "cat", "--max_new_tokens", "5", "--seed", "1"]) == 0
    out, err = capsys.readouterr()
    (line,) = file.read_text().splitlines()
    messages = json.loads(line)["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert all(message["content"].translate(CONTROL) in out for message in messages[2::2])
    again = json.loads((tmp_path / "second").read_text())["messages"]
    assert [message["content"] for message in again[:2]] == ["cat", "three"]
    assert f"{file} is there already" in err
    assert "There is no /dance" in err
    assert len([line for line in err.splitlines() if line.startswith("folio chat:")]) == 2


def test_a_message_with_no_room_is_refused_and_the_chat_goes_on(checkpoint, tmp_path, typed, capsys):
    typed(f"{'cat ' * 500}\none\n/save {tmp_path / 'chat'}\n/save {tmp_path / 'chat' / 'place'}\n/save\n")
    assert main(["chat", "--model", checkpoint, "--max_new_tokens", "3"]) == 0
    errors = _lines(capsys)
    says = ["shorten it", "Cannot write", "/save FILE"]
    assert [said in error for said, error in zip(says, errors, strict=True)] == [True] * 3
    assert json.loads((tmp_path / "chat").read_text())["messages"][0]["content"] == "one"


def test_what_no_longer_fits_is_said_once(checkpoint, typed, capsys):
    typed("the cat is free\n" * 12)
    assert main(["chat", "--model", checkpoint, "--max_new_tokens", "60", "--num_beams", "2"]) == 0
    assert capsys.readouterr().err.count("no room in the model's context") == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--temperature", "hot"], "--temperature"),
        (["--top_k", "few"], "--top_k"),
        (["--max_new_tokens", "400"], "max_new_tokens 399 or less"),
        (["--max_new_tokens", "few"], "whole number"),
        (["--num_beams", "0"], "--num_beams"),
        (["--max_length", "9"], "use --max_new_tokens"),
        (["--tmperature", "1"], "--tmperature"),
    ],
)
def test_options_that_cannot_be_are_told_before_the_first_message(checkpoint, typed, capsys, options, says):
    typed("one\n")
    assert main(["chat", "--model", checkpoint, *options]) == 2
    (line,) = _lines(capsys)
    assert says in line


def test_a_model_cannot_steer_the_terminal(checkpoint, typed, capsys, monkeypatch):
    monkeypatch.setattr("foliogpt.serving.choice.IncrementalDecoder.push", lambda self, token: "\x1b[2Ja\x9b\tb\r")
    typed("one\n")
    assert main(["chat", "--model", checkpoint, "--max_new_tokens", "1"]) == 0
    assert capsys.readouterr().out == "\\u001b[2Ja\\u009b\tb\n"


def test_at_a_terminal_ctrl_c_ends_the_answer_and_not_the_chat(checkpoint):
    ours, theirs = pty.openpty()
    script = f"""
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # what starts the tests may have had it ignored
from foliogpt.modeling import FolioForCausalLM
forward = FolioForCausalLM.forward
FolioForCausalLM.forward = lambda *args, **kwargs: (time.sleep(0.05), forward(*args, **kwargs))[1]
from foliogpt.scripts.cli import main
sys.exit(main(["chat", "--model", {checkpoint!r}, "--max_new_tokens", "300"]))
"""
    environment = {**os.environ, "TERM": "dumb"}  # nothing but text on the screen
    process = forks.Popen([script], stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    screen = ""

    def read_until(text: str) -> None:
        nonlocal screen
        ends = time.monotonic() + 40
        while text not in screen and time.monotonic() < ends:
            if select.select([ours], [], [], 1)[0]:
                screen += os.read(ours, 4096).decode(errors="replace")
        assert text in screen, screen

    read_until("Ctrl-D the chat.")
    read_until("> ")
    screen = ""
    os.write(ours, b"one\n")
    read_until("one\r\n")
    time.sleep(1)
    screen = ""
    process.send_signal(signal.SIGINT)  # ends the answer
    read_until("\n> ")
    screen = ""
    time.sleep(1)  # a signal between the prompt and the wait for a key is seen by Python with the next key
    process.send_signal(signal.SIGINT)  # there is no answer to end
    read_until("(Ctrl-D or /quit ends the chat)")
    read_until("chat)\r\n> ")
    screen = ""
    os.write(ours, b"/help\n")
    read_until("/reset  /save FILE")
    read_until("\n> ")  # before it, the terminal would take the key for its own
    os.write(ours, b"\x04")
    assert process.wait(timeout=20) == 0
    os.close(ours)


def test_a_summary_of_a_long_text_is_refused_or_says_what_was_left_out(checkpoint, tmp_path, typed, capsys):
    long = tmp_path / "long.txt"
    long.write_text("the cat is free " * 100)
    command = ["summarize", "--model", checkpoint, "--max_new_tokens", "5"]
    assert main([*command, "--text", "one two three"]) == 0
    first = capsys.readouterr().out
    typed("one two three")
    assert main(command) == 0
    assert capsys.readouterr().out == first, "greedy, and the same through a pipe"
    assert main([*command, "--file", str(long)]) == 2
    assert "--truncate leaves out its end" in capsys.readouterr().err
    assert main([*command, "--file", str(long), "--truncate", "--num_beams", "2"]) == 0
    assert "of 1,599 characters, the first" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--text", " "], "There is no text"),
        (["--text", "one", "--file", "x"], "two texts"),
        (["--file", "nowhere.txt"], "nowhere.txt"),
        (["--text", "one", "--top_k", "few"], "--top_k"),
    ],
)
def test_summaries_that_cannot_be_are_refused_in_a_line(checkpoint, capsys, options, says):
    assert main(["summarize", "--model", checkpoint, *options]) == 2
    (line,) = _lines(capsys)
    assert says in line
