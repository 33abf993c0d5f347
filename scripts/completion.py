"""Print a script that completes commands, options and file names in your shell: bash, zsh, fish, tcsh or powershell.

    folio completion bash > ~/.local/share/bash-completion/completions/folio
    folio completion zsh > ~/.zfunc/_folio

Print it again after an upgrade. A command whose extra is not installed is completed without its options.
"""

import contextlib
import io
import re
from argparse import ArgumentParser

import shtab

from .arguments import parse
from .cli import COMMANDS, run


def main(argv: list[str]) -> None:
    (shell,) = parse(argv, [], "folio completion", __doc__, positional=["SHELL"])
    if shell not in shtab.SUPPORTED_SHELLS:
        raise ValueError(f"There is no completion for {shell!r}: choose one of {', '.join(shtab.SUPPORTED_SHELLS)}.")
    folio = ArgumentParser("folio", add_help=False)
    commands = folio.add_subparsers()
    for name, (_, about) in COMMANDS.items():
        add_command(commands, [name], about)
    commands.choices["config"].add_argument("COMMAND", choices=[*COMMANDS])
    # shtab 1.13 completes only the first of several files in zsh, and no option after several values in bash.
    script = shtab.complete(folio, shell).replace('"(*):', '"*:')
    is_positional = '"$current_action_is_positional" = true'
    print(script.replace(is_positional, f'{is_positional} || "$current_action_nargs" = +'))


def add_command(commands, words: list[str], about: str = "") -> None:
    """Add the options that `folio WORDS --help` prints, or the jobs that its examples name."""
    options, printed = [], io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(ImportError):
            run([*words, "--help"])
    except SystemExit as end:
        options = [end.parser]
        for action in end.parser._actions:
            with_underscores = [each for each in action.option_strings if "-" not in each[2:]]
            action.option_strings = with_underscores or action.option_strings
            if action.metavar == "true|false":
                action.choices = ("true", "false")
            elif action.metavar in ("TEXT", "FILE") or not action.option_strings:
                action.complete = shtab.FILE
    command = commands.add_parser(words[-1], parents=options, add_help=False, help=about)
    jobs = [] if options else re.findall(rf"^ +folio {words[-1]} ([a-z]+) ", printed.getvalue(), re.MULTILINE)
    parsers = command.add_subparsers() if jobs else None
    for job in dict.fromkeys(jobs):
        add_command(parsers, [*words, job])
