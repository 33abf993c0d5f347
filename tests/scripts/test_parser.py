"""Help that can be read, files of settings that are what they say, and hints at what was meant."""

import re
from dataclasses import fields

import pytest
import yaml

from foliogpt.data.arguments import CorpusArguments, DataArguments
from foliogpt.scripts.arguments import parse
from foliogpt.scripts.cli import COMMANDS, main
from foliogpt.training.arguments import ModelArguments, PretrainingArguments
from foliogpt.training.depth import Dial
from foliogpt.training.finetuning.arguments import MethodArguments
from foliogpt.training.finetuning.trainers import arguments_of

JOBS = {"tokenizer": "train", "finetune": "sft", "rag": "sync", "embedder": "train"}
WITHOUT_OPTIONS = {"config", "runs"}


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
def test_help_has_a_text_for_every_option_and_an_example(command, capsys):
    words = [command, *filter(None, [JOBS.get(command)])]
    text = printed(capsys, *words, "--help")
    assert re.search(rf"^ *folio {' '.join(words)}", text, flags=re.MULTILINE)
    assert "None" not in text
    assert "==" not in text
    assert [name for name, said in options(text).items() if not re.search(r"[a-z]{2} ", said)] == []


def test_help_of_training_begins_with_what_matters(capsys):
    text, everything = (printed(capsys, "pretrain", flag) for flag in ("--help", "--help-all"))
    shown, all_of_them = options(text), options(everything)
    assert len(text.splitlines()) < 120
    assert {"--corpus", "--size", "--num_train_epochs", "--weight_decay", "--minutes"} <= shown.keys()
    assert "(default: 0.1)" in shown["--weight_decay"]
    assert "--dataloader_num_workers" not in shown
    assert "subprocesses" in all_of_them["--dataloader_num_workers"]
    assert shown.keys() < all_of_them.keys()
    assert {name for name, said in all_of_them.items() if not said} == set()


@pytest.mark.parametrize(
    ("words", "groups"),
    [
        (["pretrain"], [CorpusArguments, ModelArguments, PretrainingArguments, Dial]),
        (["finetune", "sft"], [DataArguments, MethodArguments, arguments_of("sft")]),
        (["finetune", "dpo"], [DataArguments, MethodArguments, arguments_of("dpo")]),
    ],
)
def test_a_file_of_settings_holds_the_defaults(words, groups, capsys, tmp_path):
    text = printed(capsys, "config", *words)
    required = {"task": words[-1], "data": "rows.jsonl", "model": "runs/a"} if len(words) > 1 else {}
    settings = yaml.safe_load(re.sub(r"^#(?=\w)", "", text, flags=re.MULTILINE))
    assert {name for name, value in settings.items() if value is None} >= required.keys()
    (tmp_path / "all.yaml").write_text(yaml.safe_dump({**settings, **required}))
    (tmp_path / "none.yaml").write_text(yaml.safe_dump(required))
    given, bare = (parse(["--config", str(tmp_path / name)], groups, "folio", "") for name in ("all.yaml", "none.yaml"))
    for one, other in zip(given, bare, strict=True):
        assert all(getattr(one, field.name) == getattr(other, field.name) for field in fields(one))


def test_a_file_of_settings_is_refused_for_what_is_no_command(capsys):
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
def test_a_wrong_name_is_answered_with_the_nearest(argv, meant, capsys):
    assert main(argv) == 2
    assert f"did you mean {meant}?" in capsys.readouterr().err
