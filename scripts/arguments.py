"""Command-line arguments from dataclasses, with defaults from a YAML file."""

import json
import shlex
from argparse import ArgumentError, ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import yaml
from transformers import GenerationConfig

from ..jobs.run_folder import RUN_METADATA_KEYS
from .parser import Parser

YES = ("true", "t", "yes", "y", "1")
# Settings that run code or send data. A run's own file may come from anybody, so only flags can turn them on.
CONSENT = ("trust_remote_code", "push_to_hub", "report_to")


def parse(
    argv: list[str], groups: list[type], prog: str, description: str, run_file: str = "", positional: Sequence[str] = ()
) -> tuple:
    """Fill the dataclasses `groups` from `--config FILE.yaml`, then from the flags, which win.

    The words that `positional` names come before the dataclasses in what is returned. With `run_file`, `--resume`
    starts from the settings that the run in `--output_dir` wrote under that name.
    """
    parser = Parser(groups, prog, description)
    parser.usage = " ".join([prog, *positional, "[options]"])
    for name in positional:
        parser.add_argument(name, nargs="+" if name.endswith("...") else None)
    flags = [*flags_from_files(argv, parser, run_file), *argv]
    for group in groups:
        if hasattr(group, "implied"):  # an option that changes the defaults of others
            parser.set_defaults(**group.implied(parser.parse_known_args(flags)[0], flags))
    *parsed, rest = parser.fill(flags)
    if rest:
        parser.unknown(rest[0])
    words = [getattr(parsed[len(groups)], name) for name in positional]
    return (*words, *parsed[: len(groups)])


def parse_with_generation(argv: list[str], group: type, prog: str, description: str) -> tuple:
    """Fill the dataclass `group`, and a dict of generation options, their values read as YAML (numbers, true, lists).

    Every `--name value` that the dataclass has not must be a field of GenerationConfig.
    """
    parser = Parser([group], prog, description)
    fields = GenerationConfig().to_dict()
    flags = flags_from_files(argv, parser, also={f"--{name}" for name in fields})
    parsed, *_, rest = parser.fill([*flags, *argv])
    options = {}
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or name not in fields:
            parser.unknown(flag, also=[f"--{name}" for name in fields])
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        try:
            options[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            parser.error(f"{flag} is {value}: put it in quotes, as in {flag} {shlex.quote(json.dumps(value))}")
    return parsed, options


def command_line(prog: str, argv: list[str]) -> str:
    """The command as it can be shown to anybody: without the secret that `--hub_token` takes."""
    words, hide = [], False
    for word in argv:
        flag, equals, _ = word.partition("=")
        words.append("HIDDEN" if hide else word)
        hide = flag.replace("-", "_") == "__hub_token"
        if hide and equals:
            words[-1], hide = f"{flag}=HIDDEN", False
    return shlex.join([*prog.split(), *words])


def flags_from_files(argv: list[str], parser: Parser, run_file: str = "", also: set[str] = frozenset()) -> list[str]:
    """Add `--config` to the parser, and return the settings of the files that `argv` names as flags."""
    first = ArgumentParser(parser.prog, add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--config", action="append", default=[])
    first.add_argument("--resume", nargs="?", const="true")
    first.add_argument("--output_dir", "--output-dir")
    try:
        known, _ = first.parse_known_args(argv)
    except ArgumentError as error:
        parser.error(str(error))

    files = {Path(name): _settings(Path(name)) for name in known.config}
    chosen = {"output_dir": parser.get_default("output_dir"), "resume": "false"}
    for settings in (*files.values(), vars(known)):
        chosen |= {name: settings[name] for name in chosen if settings.get(name) is not None}
    if run_file and str(chosen["resume"]).lower() in YES:
        saved = Path(chosen["output_dir"]).expanduser() / run_file
        if saved.is_file():
            files = {saved: _without_consent(saved, argv), **files}
    return [flag for file, settings in files.items() for flag in _flags(file, settings, parser, also)]


def _without_consent(saved: Path, argv: list[str]) -> dict:
    """The settings of a run without those that only a flag can allow; ValueError if `argv` says nothing of one."""
    settings = _settings(saved)
    given = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in argv if word.startswith("--")}
    for name in CONSENT:
        value = settings.pop(name, None)
        if value not in (None, False, "none", [], ["none"]) and name not in given:
            shown = shlex.join(map(str, value if isinstance(value, list) else [str(value).lower()]))
            raise ValueError(
                f"{saved} asks for {name} {shown}, which only a flag can allow: if you trust this run, repeat it as "
                f"--{name} {shown}; otherwise give --{name} {'none' if name == 'report_to' else 'false'}."
            )
    return settings


def _settings(file: Path) -> dict:
    if not file.is_file():
        raise FileNotFoundError(f"There is no config file {file}.")
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not YAML: {error}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{file} must be a mapping, one `name: value` a line.")
    return {str(name).replace("-", "_"): value for name, value in settings.items() if name not in RUN_METADATA_KEYS}


def _flags(file: Path, settings: dict, parser: Parser, also: set[str]) -> list[str]:
    """The settings as the flags that would set them, so that both are checked in one place."""
    actions = {option: action for action in parser._actions for option in action.option_strings}
    flags = []
    for name, value in settings.items():
        flag = f"--{name}"
        if (flag not in actions and flag not in also) or flag == "--config":
            raise ValueError(f"{file}: there is no setting {name!r}.")
        takes_list = flag in actions and actions[flag].nargs in ("+", "*")
        if value is None or (takes_list and not value):
            continue
        if isinstance(value, list) and takes_list:
            flags += [flag, *map(str, value)]
        elif isinstance(value, list) and flag in actions:
            raise ValueError(f"{file}: {name} takes one value, not a list.")
        else:
            # As one word: a value may begin with a dash.
            flags.append(f"{flag}={json.dumps(value) if isinstance(value, (dict, list)) else value}")
    return flags
