"""Help, settings from files, and errors of a command's options."""

import re
from dataclasses import dataclass, field, fields

import pytest
import yaml

from foliogpt.data.arguments import CorpusArguments, DataArguments
from foliogpt.jobs.run_folder import RUN_FILE
from foliogpt.scripts.arguments import command_line, parse, parse_with_generation
from foliogpt.scripts.cli import COMMANDS, main
from foliogpt.training.arguments import ModelArguments, PretrainingArguments
from foliogpt.training.depth import DepthArguments
from foliogpt.training.finetuning.arguments import MethodArguments
from foliogpt.training.finetuning.trainers import arguments_of

JOBS = {"tokenizer": "train", "finetune": "sft", "rag": "sync", "embedder": "train"}
WITHOUT_OPTIONS = {"config", "runs"}


@dataclass
class Method:
    trust_remote_code: bool = field(default=False)


def resumed(folder, settings: dict, *flags: str):
    (folder / RUN_FILE).write_text(yaml.safe_dump(settings))
    argv = ["--output_dir", str(folder), "--resume", *flags]
    return parse(argv, [Method, PretrainingArguments], "folio finetune", "", run_file=RUN_FILE)


@pytest.mark.parametrize(
    ("name", "value", "repeat", "refuse"),
    [
        ("trust_remote_code", True, "--trust_remote_code true", "--trust_remote_code false"),
        ("push_to_hub", True, "--push_to_hub true", "--push_to_hub false"),
        ("report_to", ["wandb", "mlflow"], "--report_to wandb mlflow", "--report_to none"),
        ("report_to", "all", "--report_to all", "--report_to none"),
    ],
)
def test_a_run_file_cannot_run_code_or_send_data(tmp_path, name, value, repeat, refuse):
    with pytest.raises(ValueError, match=repeat) as error:
        resumed(tmp_path, {name: value, "seed": 3})
    assert refuse in str(error.value)
    method, args = resumed(tmp_path, {name: value, "seed": 3}, *refuse.split())
    assert (method.trust_remote_code, args.push_to_hub, args.report_to, args.seed) == (False, False, [], 3)


def test_a_flag_repeats_the_consent_that_a_run_had(tmp_path):
    method, args = resumed(tmp_path, {"trust_remote_code": True, "seed": 3}, "--trust-remote-code=true")
    assert method.trust_remote_code
    assert args.seed == 3


def test_a_run_without_consent_resumes_unchanged(tmp_path):
    settings = {"trust_remote_code": False, "push_to_hub": False, "report_to": ["none"], "seed": 3}
    method, args = resumed(tmp_path, settings)
    assert (method.trust_remote_code, args.push_to_hub, args.report_to, args.seed) == (False, False, [], 3)


def printed(capsys, *argv: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(list(argv))
    assert end.value.code == 0
    return capsys.readouterr().out


def options(text: str) -> dict[str, str]:
    """Each option that help lists, and its text."""
    parts = re.split(r"^  (?:-h, )?(--\w[\w-]*)", text, flags=re.MULTILINE)
    return {name: " ".join(rest.split()) for name, rest in zip(parts[1::2], parts[2::2], strict=True)}


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in WITHOUT_OPTIONS])
def test_help_has_an_example_and_a_text_for_every_option(command, capsys):
    words = [command, *filter(None, [JOBS.get(command)])]
    text = printed(capsys, *words, "--help")
    assert re.search(rf"^ *folio {' '.join(words)}", text, flags=re.MULTILINE)
    assert "None" not in text
    assert "==" not in text
    assert [name for name, said in options(text).items() if not re.search(r"[a-z]{2} ", said)] == []


def test_help_of_training_lists_the_common_options_first(capsys):
    text, everything = (printed(capsys, "pretrain", flag) for flag in ("--help", "--help-all"))
    shown, all_of_them = options(text), options(everything)
    assert len(text.splitlines()) < 120
    assert {"--corpus", "--size", "--num_train_epochs", "--weight_decay", "--minutes"} <= shown.keys()
    assert "(default: 0.1)" in shown["--weight_decay"]
    assert "(default: 0)" in options(printed(capsys, "quickstart", "--help"))["--seed"]
    assert "--dataloader_num_workers" not in shown
    assert "subprocesses" in all_of_them["--dataloader_num_workers"]
    assert shown.keys() < all_of_them.keys()
    assert {name for name, said in all_of_them.items() if not said} == set()


@pytest.mark.parametrize(
    ("words", "groups"),
    [
        (["pretrain"], [CorpusArguments, ModelArguments, PretrainingArguments, DepthArguments]),
        (["finetune", "sft"], [DataArguments, MethodArguments, arguments_of("sft")]),
        (["finetune", "dpo"], [DataArguments, MethodArguments, arguments_of("dpo")]),
    ],
)
def test_config_prints_the_defaults(words, groups, capsys, tmp_path):
    text = printed(capsys, "config", *words)
    required = {"task": words[-1], "data": "rows.jsonl", "model": "runs/a"} if len(words) > 1 else {}
    settings = yaml.safe_load(re.sub(r"^#(?=\w)", "", text, flags=re.MULTILINE))
    assert {name for name, value in settings.items() if value is None} >= required.keys()
    (tmp_path / "all.yaml").write_text(yaml.safe_dump({**settings, **required}))
    (tmp_path / "none.yaml").write_text(yaml.safe_dump(required))
    given, bare = (parse(["--config", str(tmp_path / name)], groups, "folio", "") for name in ("all.yaml", "none.yaml"))
    for one, other in zip(given, bare, strict=True):
        assert all(getattr(one, field.name) == getattr(other, field.name) for field in fields(one))


def test_config_rejects_an_unknown_command(capsys):
    assert main(["config", "dance"]) == 2
    assert "no command 'dance'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["pretrian"], "pretrain"),
        (["pretrain", "--num_epochs", "3"], "--num_train_epochs"),
        (["pretrain", "--weight-decay-rate=3"], "--weight-decay"),
        (["generate", "--model", "a", "--prompt", "b", "--temprature", "1"], "--temperature"),
    ],
)
def test_an_unknown_name_is_an_error_with_the_nearest_name(argv, meant, capsys):
    assert main(argv) == 2
    assert f"did you mean {meant}?" in capsys.readouterr().err


def test_generation_options_are_read_as_yaml(tmp_path):
    (tmp_path / "g.yaml").write_text("top_k: 5\nstop_strings: ['a b', c]\ntemperature: 0.2\n")
    argv = ["--config", str(tmp_path / "g.yaml"), "--do_sample", "--temperature", "0.7", "--min-p=0.1"]
    argv += ["--eos_token_id", "[1, 2]", "--trust_remote_code", "true"]
    method, options = parse_with_generation(argv, Method, "folio generate", "")
    assert method.trust_remote_code
    assert options == {
        "top_k": 5, "stop_strings": ["a b", "c"], "temperature": 0.7, "do_sample": True, "min_p": 0.1,
        "eos_token_id": [1, 2],
    }  # fmt: skip
    for argv, message in {"--top_kk 5": "did you mean --top_k?", "--stop_strings *": "put it in quotes"}.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            parse_with_generation(argv.split(), Method, "folio generate", "")


@pytest.mark.parametrize("flag", ["--hub_token", "--hub-token"])
def test_command_line_hides_the_token(flag):
    for secret in ([flag, "s3cret x"], [f"{flag}=s3cret\nx"]):
        command = command_line("folio pretrain", ["--seed", "1", *secret, "--corpus", "a b"])
        assert "s3cret" not in command
        assert "HIDDEN" in command
        assert command.endswith("--corpus 'a b'")


@dataclass
class Labels:
    label: str = field(default="x")
    switch: bool = field(default=False)
    names: list[str] = field(default_factory=list)


@pytest.mark.parametrize(
    "argv",
    ["-- a b -c", "a b -- -c", "--label y a b -- -c", "a --label y b -- -c", "a --label y -- b -c",
     "a b --label y -- -c", "--label=y -- a b -c", "a --label y b --label y -- -c"],
)  # fmt: skip
def test_words_stand_anywhere_among_options_and_after_two_dashes(argv):
    words, labels = parse(argv.split(), [Labels], "folio x", "", positional=["WORD..."])
    assert words == ["a", "b", "-c"]
    assert labels.label == ("y" if "--label" in argv else "x")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("a --lable y", "did you mean --label?"),
        ("a --switsh -- b", "did you mean --switch?"),
        ("-abc", "no option '-abc': write a value as --name=-abc, a text or a path last, after"),
        ("a --label -abc=1", "no option '-abc=1': write a value as --name=-abc=1"),
        ("-5x", "no option '-5x': write a value as --name=-5x, a text or a path last, after"),
        ("--label y", "required: WORD..."),
        ("", "required: WORD..."),
    ],
)
def test_a_word_that_is_no_option_is_an_error_with_the_remedy(argv, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        parse(argv.split(), [Labels], "folio x", "", positional=["WORD..."])


@pytest.mark.parametrize("word", ["-a b", "-5", "-0.5", "-", "- a", ""])
def test_a_word_that_argparse_takes_for_no_option_stands_anywhere(word):
    for argv in ([word, "a", "--label", "y"], ["a", "--label", "y", word], ["--label", "y", "a", word]):
        words, labels = parse(argv, [Labels], "folio x", "", positional=["WORD..."])
        assert (sorted(words), labels.label) == (sorted(["a", word]), "y")


@pytest.mark.parametrize("argv", [[], ["--switch"], ["--switch", "true"], ["--label", "y", "--"]])
@pytest.mark.parametrize("words", [[], ["a"], ["a", "b"]])
def test_words_in_brackets_may_be_left_out(argv, words):
    for line in ([*words, *argv], [*argv, *words] if argv != ["--switch"] else [*argv, "--", *words]):
        assert parse(line, [Labels], "folio x", "", positional=["[WORD...]"])[0] == words


def test_a_list_in_a_file_does_not_take_the_first_word_of_the_command(tmp_path):
    (tmp_path / "run.yaml").write_text("names: [a, b]\n")
    argv = ["word", "--config", str(tmp_path / "run.yaml")]
    word, labels = parse(argv, [Labels], "folio x", "", positional=["WORD"])
    assert (word, labels.names) == ("word", ["a", "b"])
    word, _, options = parse_with_generation(argv, Labels, "folio x", "", ["WORD"])
    assert (word, options) == ("word", {})


def test_a_word_comes_before_the_generation_options(tmp_path):
    argv = ["--temperature", "0.7", "-is it a question?", "--trust_remote_code", "true"]
    word, method, options = parse_with_generation(argv, Method, "folio x", "", ["QUESTION"])
    assert (word, method.trust_remote_code, options) == ("-is it a question?", True, {"temperature": 0.7})


@pytest.mark.parametrize(
    ("text", "corpus"), [("[]", ["python-manual"]), ("null", ["python-manual"]), ("a", ["a"]), ("[a, b]", ["a", "b"])]
)
def test_a_list_in_a_file_may_be_empty_or_a_word(text, corpus, tmp_path):
    (tmp_path / "run.yaml").write_text(f"corpus: {text}\n")
    (found,) = parse(["--config", str(tmp_path / "run.yaml")], [CorpusArguments], "folio x", "")
    assert found.corpus == corpus
