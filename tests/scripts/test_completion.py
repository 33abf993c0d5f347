"""The completion scripts, run by a real bash."""

import shutil
import subprocess
import sys

import pytest

from foliogpt.scripts.cli import COMMANDS, main

# For each line, call the function that `complete` registers as bash does: with the words, of which the last is typed.
PRESS_TAB = r"""
source folio.bash
complete=$(complete -p folio | sed 's/.*-F \([^ ]*\) .*/\1/')
while IFS= read -r COMP_LINE; do
    read -ra COMP_WORDS <<< "$COMP_LINE"
    [[ $COMP_LINE == *" " ]] && COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_POINT=${#COMP_LINE}
    $complete folio "${COMP_WORDS[COMP_CWORD]}"
    echo "${COMPREPLY[@]}"
done
"""
COMPLETIONS = {
    "folio ": " ".join(COMMANDS),
    "folio pre": "pretrain",
    "folio pretrain --num_tr": "--num_train_epochs",
    "folio pretrain --dataloader_num": "--dataloader_num_workers",  # only --help-all lists it
    "folio pretrain --size mi": "micro mini",
    "folio pretrain --bf16 ": "true false",
    "folio pretrain --corpus pl": "plays.txt",
    "folio pretrain --corpus plays.txt pl": "plays.txt",
    "folio pretrain --corpus plays.txt --num_tr": "--num_train_epochs",
    "folio rag sync plays.txt --ind": "--index",
    "folio finetune ": "sft dpo lm classify tag qa",
    "folio finetune sft --lora_r": "--lora_r",
    "folio rag sync pl": "plays.txt",
    "folio runs pl": "plays.txt",
    "folio runs plays.txt --js": "--json",
    "folio config pre": "pretrain",
    "folio merge --h": "--help",
}


def printed(capsys, shell: str) -> str:
    capsys.readouterr()
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.mark.skipif(not shutil.which("bash") or sys.platform == "win32", reason="needs bash")
def test_bash_completes_commands_options_values_and_files(capsys, tmp_path):
    (tmp_path / "plays.txt").touch()
    (tmp_path / "folio.bash").write_text(printed(capsys, "bash"))
    lines = "".join(f"{line}\n" for line in COMPLETIONS)
    pipes = {"input": lines, "capture_output": True, "text": True}
    done = subprocess.run(["bash", "-c", PRESS_TAB], cwd=tmp_path, check=True, **pipes)
    assert done.stderr == ""
    assert dict(zip(COMPLETIONS, done.stdout.splitlines(), strict=True)) == COMPLETIONS


def test_a_command_without_its_extra_is_completed_without_options(capsys, monkeypatch):
    def fail(argv: list[str]) -> None:
        raise ImportError("folio merge needs peft")

    monkeypatch.setattr("foliogpt.scripts.merge.main", fail)
    text = printed(capsys, "bash")
    assert " merge " in text
    assert "_shtab_folio_merge_option_strings=()" in text
    assert "_shtab_folio_push_option_strings=(--repo_id" in text


def test_every_shell_that_the_help_names_has_a_script(capsys):
    for shell in ("zsh", "fish", "tcsh", "powershell"):
        script = printed(capsys, shell)
        assert "pretrain" in script
        assert '"(*):' not in script  # in zsh, no word after the first one would be completed
    assert main(["completion", "dash"]) == 2
    assert "no completion for 'dash': choose one of bash" in capsys.readouterr().err
