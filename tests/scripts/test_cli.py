"""The `folio` command: every error of a user is one line and exit code 2."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import forks
import pytest
from huggingface_hub.utils import _http
from transformers import AutoTokenizer

from foliogpt.scripts.cli import COMMANDS, main

TINY_RUN = ["--tokenizer", "char", "--block_size", "32", "--max_steps", "4", "--per_device_train_batch_size", "2",
            "--bf16", "false"]  # fmt: skip


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "rhyme.txt"
    file.write_text("One two three, the cat is free; four five six, the dog has tricks.\n" * 60)
    return str(file)


@pytest.fixture(scope="session")
def checkpoint(text_file, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("run") / "model")
    assert main(["pretrain", "--corpus", text_file, "--output_dir", folder, *TINY_RUN]) == 0
    return folder


def error_of(capsys, argv: list[str]) -> str:
    """The error line, the only one, of a command that must fail as a user's mistake."""
    capsys.readouterr()
    code = main(argv)
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2, lines
    said = [line for line in lines if "%|" not in line]  # progress bars, which are off in a process of its own
    assert len(said) == 1, lines
    return said[0]


def test_help_lists_the_commands_and_imports_nothing_heavy():
    script = "import sys; from foliogpt.scripts.cli import main; main(['--help']); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert all(name in out for name in COMMANDS)
    assert not {"torch", "transformers", "numpy", "datasets", "yaml"} & set(out.splitlines()[-1].split())


def test_every_command_has_help(capsys):
    for name in COMMANDS:
        with contextlib.suppress(SystemExit):  # argparse's way to end
            assert main([name, "--help"]) == 0
        assert f"folio {name}" in capsys.readouterr().out


def test_an_unknown_command_lists_those_that_exist(capsys):
    assert "quickstart, data, clean, tokenizer" in error_of(capsys, ["dance"])


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["pretrain", "--corpus", "nowhere.txt"], "nowhere.txt"),
        (["pretrain", "--corpus", "{empty}"], "no text"),
        (["pretrain", "--corpus", "{binary}"], "not text"),
        (["pretrain", "--corpus", "{rows}", "--text_column", "body"], "--text-column"),
        (["pretrain", "--corpus", "{text}", "--vocab_size", "60000"], "is too large for this text"),
        (["pretrain", "--corpus", "{text}", "--vocab_size", "100"], "256 bytes"),
        (["pretrain", "--corpus", "{text}", "--tokenizer", "{text}"], "is not a tokenizer"),
        (["pretrain", "--corpus", "{text}", "--preset", "gpt9"], "gpt9"),
        (["pretrain", "--corpus", "{text}", "--learning_rate", "1e9"], "learning_rate"),
        (["pretrain", "--corpus", "{text}", "--learning_rat", "1"], "--learning_rat"),
        (["pretrain", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["pretrain", "--config", "{bad_yaml}"], "learning_rat"),
        (["pretrain", "--corpus", "{text}", "--resume"], "no run to resume"),
        (["tokenizer", "inspect"], "TEXT|FILE"),
        (["tokenizer", "train", "--corpus", "{text}", "--vocab_size", "60000"], "is too large for this text"),
        (["generate", "--model", "nowhere", "--prompt", "x"], "nowhere"),
        (["quickstart", "--minutes", "-1"], "minutes"),
        (["quickstart", "--minutes", "soon"], "minutes"),
        (["quickstart", "--minuts", "1"], "There is no option '--minuts'"),
        (["pretrain", "--config"], "--config"),
        (["pretrain", "--config", "{list_yaml}"], "preset takes one value, not a list"),
        (["pretrain", "--config", "{nested_yaml}"], "no setting 'config'"),
        (["pretrain", "--corpus", "/dev/null"], "not a regular file"),
        (["pretrain", "--corpus", "{csv}"], "quotes around text"),
        (["pretrain", "--corpus", "hub:"], "hub:NAME"),
        (["pretrain", "--corpus", "hub:nobody/nothing"], "hub:nobody/nothing"),
        (["pretrain", "--max_steps", "0"], "max_steps"),
        (["generate", "--prompt", "x"], "--model"),
        (["generate", "--model", "{folder}", "--prompt", "x"], "is not a complete checkpoint"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_with_a_remedy(argv, says, capsys, tmp_path, text_file):
    files = {name: str(tmp_path / name) for name in ("empty", "binary", "rows.jsonl", "bad_yaml", "list_yaml")}
    (tmp_path / "nested_yaml").write_text("config: other.yaml\n")
    (tmp_path / "rows.csv").write_text("text\nOnce upon a time, a fox met a crow, and they talked.\n")
    (tmp_path / "empty").write_text("  \n")
    (tmp_path / "binary").write_bytes(b"\x89PNG\r\n\x00\x00")
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n' * 3)
    (tmp_path / "bad_yaml").write_text("learning_rat: 1\n")
    (tmp_path / "list_yaml").write_text("preset: [folio]\n")
    names = {**files, "rows": files["rows.jsonl"], "text": text_file, "folder": str(tmp_path)}
    names |= {"csv": str(tmp_path / "rows.csv"), "nested_yaml": str(tmp_path / "nested_yaml")}
    argv = [word.format(**names) if word.startswith("{") else word for word in argv]
    if argv[0] != "generate" and argv[1] != "inspect":
        argv += ["--output_dir", str(tmp_path / "out")]
    assert says in error_of(capsys, argv)


def test_a_run_is_not_overwritten(checkpoint, text_file, capsys):
    line = error_of(capsys, ["pretrain", "--corpus", text_file, "--output_dir", checkpoint, *TINY_RUN])
    assert "--overwrite" in line


def test_a_run_is_replaced_with_overwrite(text_file, tmp_path):
    command = ["pretrain", "--corpus", text_file, "--output_dir", str(tmp_path / "run"), *TINY_RUN]
    assert main(command) == 0
    assert main([*command, "--overwrite", "--seed", "1"]) == 0
    assert json.loads((tmp_path / "run" / "report.json").read_text())["seed"] == 1


def test_a_resume_in_the_default_folder_finds_the_settings_of_its_run(text_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", "--corpus", text_file, *TINY_RUN]) == 0
    assert main(["pretrain", "--resume", "--max_steps", "6"]) == 0
    report = json.loads(Path("runs/pretrain/report.json").read_text())
    assert (report["corpus"], report["steps"]) == (text_file, 6)
    (tmp_path / "go_on.yaml").write_text("resume: true\noutput_dir: moved\n")
    Path("runs/pretrain").rename("moved")
    assert main(["pretrain", "--config", "go_on.yaml", "--max_steps", "8"]) == 0
    assert json.loads(Path("moved/report.json").read_text())["steps"] == 8
    assert not Path("runs/pretrain").exists()


def test_a_reader_of_the_output_that_ends_early_is_no_error(checkpoint):
    for argv in (["--help"], ["generate", "--model", checkpoint, "--prompt", "One", "--max_new_tokens", "4"]):
        with forks.Popen(forks.folio(*argv), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            process.stdout.close()
            assert (process.wait(), process.stderr.read()) == (0, b"")


def test_exit_code_distinguishes_our_errors_from_those_of_the_user(monkeypatch, capsys):
    monkeypatch.setattr("foliogpt.scripts.cli.usage", lambda: {}["missing"])
    assert main(["--help"]) == 1
    assert "KeyError 'missing'" in capsys.readouterr().err
    client = _http.httpx2 if hasattr(_http, "httpx2") else _http.httpx  # before huggingface_hub 2
    monkeypatch.setattr("foliogpt.scripts.cli.usage", lambda: (_ for _ in ()).throw(client.ConnectError("no network")))
    assert error_of(capsys, ["--help"]) == "folio --help: no network"


def test_a_secret_is_not_shown(text_file, tmp_path):
    folder = tmp_path / "run"
    argv = ["pretrain", "--corpus", text_file, "--output_dir", str(folder), *TINY_RUN, "--hub_token", "hf_secret"]
    assert main(argv) == 0
    assert "hf_secret" not in "".join(path.read_text(errors="replace") for path in folder.glob("*.*") if path.is_file())
    assert "--hub_token HIDDEN" in (folder / "README.md").read_text()


def test_corpus_excludes_the_folder_of_a_run(text_file, tmp_path):
    (tmp_path / "text.txt").write_text(Path(text_file).read_text())
    argv = ["pretrain", "--corpus", str(tmp_path), "--output_dir", str(tmp_path / "run"), *TINY_RUN]
    assert main(argv) == 0
    assert main(["pretrain", "--output_dir", str(tmp_path / "run"), "--resume", "--max_steps", "6"]) == 0


def test_config_file_accepts_a_value_that_begins_with_a_dash(tmp_path, text_file, capsys):
    (tmp_path / "run.yaml").write_text("corpus: -not a flag-\n")
    line = error_of(capsys, ["pretrain", "--config", str(tmp_path / "run.yaml"), "--output_dir", str(tmp_path / "out")])
    assert "-not a flag-" in line


def test_a_finished_run_repeats_from_its_own_settings(checkpoint, tmp_path):
    assert main(["pretrain", "--config", f"{checkpoint}/run.yaml", "--output_dir", str(tmp_path / "again")]) == 0
    reports = [json.loads(Path(folder, "report.json").read_text()) for folder in (checkpoint, tmp_path / "again")]
    assert reports[0]["val_loss"] == reports[1]["val_loss"]


def test_flags_override_the_config_file(text_file, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(
        f"corpus: {text_file}\ntokenizer: char\nblock_size: 32\nmax_steps: 2\nbf16: false\nsave_steps: 1\n"
        "lr_scheduler_kwargs: {num_decay_steps: 1}\n"
    )
    folder = tmp_path / "run"
    assert main(["pretrain", "--config", str(config), "--max-steps", "3", "--output-dir", str(folder)]) == 0
    assert json.loads((folder / "report.json").read_text())["steps"] == 3


def test_a_tokenizer_is_trained_and_used(text_file, tmp_path, capsys):
    folder = str(tmp_path / "tokenizer")
    assert main(["tokenizer", "train", "--corpus", text_file, "--vocab_size", "280", "--output_dir", folder]) == 0
    assert len(AutoTokenizer.from_pretrained(folder)) == 280
    assert "--overwrite" in error_of(capsys, ["tokenizer", "train", "--corpus", text_file, "--output_dir", folder])
    run = ["--tokenizer", folder, "--block_size", "32", "--max_steps", "2", "--bf16", "false"]
    assert main(["pretrain", "--corpus", text_file, "--output_dir", str(tmp_path / "run"), *run]) == 0
    assert json.loads((tmp_path / "run" / "report.json").read_text())["vocab_size"] == 280
    capsys.readouterr()
    stop = ['--stop_strings=["o"]', "--do_sample", "false"]
    assert main(["generate", "--model", str(tmp_path / "run"), "--prompt", "One tw", *stop]) == 0
    assert capsys.readouterr().out.strip("\n")[len("One tw") : -1].count("o") == 0


def test_generate_continues_the_prompt(checkpoint, capsys):
    options = ["--max_new_tokens", "5", "--seed", "1"]
    outputs = []
    for _ in range(2):
        capsys.readouterr()
        assert main(["generate", "--model", checkpoint, "--prompt", "One two", *options]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0].startswith("One two")
    assert outputs[0] == outputs[1]
    assert main(["generate", "--model", checkpoint, "--prompt", "One", "--num_beams", "2", "--do_sample", "false"]) == 0
    assert main(["generate", "--model", checkpoint, "--prompt", "One", "--num_return_sequences", "2"]) == 0
    assert capsys.readouterr().out.count("---") == 1
    command = ["generate", "--model", checkpoint, "--prompt=One"]
    assert main([*command, "--max_length=8", "--do_sample", "--top_k=3"]) == 0
    assert main([*command, "--num_beams", "2", "--do_sample", "false", "--return_dict_in_generate", "true"]) == 0


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--prompt", ""], "empty"),
        (["--prompt", "One", "--tmperature", "1"], "tmperature"),
        (["--prompt", "One", "--temperature", "hot"], "temperature"),
        (["--prompt", "One", "--temperature", "-1"], "temperature"),
        (["--prompt", "One", "--max_new_tokens", "0"], "max_new_tokens"),
        (["--prompt", "One", "--max_new_tokens", "30"], "--max_new_tokens 29 or less"),
        (["--prompt", "One", "--max_new_tokens", "many"], "whole number"),
        (["--prompt", "One", "--max_new_tokens", "true"], "whole number"),
        (["--prompt", "One", "--stop_strings", "*"], "put it in quotes"),
        (["--prompt", "One", "--max_length", "many"], "whole number"),
        (["--prompt", "One", "--max_length", "33"], "--max_length 32 or less"),
        (["--prompt", "One", "--num_beams", "0"], "num_beams"),
        (["--prompt", "One", "--num_return_sequences", "0"], "num_return_sequences"),
        (["--prompt", "One", "--top_k", "few"], "top_k"),
        (["--prompt", "One" * 11], "has 33 tokens, the model's context 32"),
    ],
)
def test_generate_rejects_invalid_options(checkpoint, capsys, argv, says):
    assert says in error_of(capsys, ["generate", "--model", checkpoint, *argv])
