"""Command-line arguments from dataclasses, with defaults from a YAML file."""

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

import yaml
from transformers import GenerationConfig, HfArgumentParser


def parse(argv: list[str], groups: list[type], prog: str, description: str, run_file: str = "") -> tuple:
    """Fill the dataclasses `groups` from `--config FILE.yaml`, then from the flags, which win.

    With `run_file`, `--resume` starts from the settings that the run in `--output_dir` wrote under that name.

    Raises:
        FileNotFoundError, ValueError: for a config file that is missing, or is not a mapping of known settings.
        SystemExit: from argparse, with code 2, for flags that it does not know.
    """
    parser = HfArgumentParser(groups, prog=prog, description=description, allow_abbrev=False)
    flags = flags_from_files(argv, parser, run_file)
    return parser.parse_args_into_dataclasses([*flags, *argv], look_for_args_file=False)[: len(groups)]


def parse_with_generation(argv: list[str], group: type, prog: str, description: str) -> tuple:
    """Fill the dataclass `group`; every other `--name value` must be a field of GenerationConfig.

    Returns:
        The dataclass, and a dict of generation options with their values read as YAML (numbers, true, lists).

    Raises:
        ValueError: for an option that neither has.
    """
    formatter = RawDescriptionHelpFormatter
    parser = HfArgumentParser(
        [group], prog=prog, description=description, allow_abbrev=False, formatter_class=formatter
    )
    fields = GenerationConfig().to_dict()
    flags = flags_from_files(argv, parser, also={f"--{name}" for name in fields})
    parsed, *_, rest = parser.parse_args_into_dataclasses(
        [*flags, *argv], look_for_args_file=False, return_remaining_strings=True
    )
    options = {}
    for name, value in zip(rest[::2], rest[1::2], strict=False):
        options[name.removeprefix("--").replace("-", "_")] = yaml.safe_load(value)
    unknown = [name for name in options if name not in fields]
    if unknown or len(rest) % 2:
        raise ValueError(f"There is no option {(unknown or rest)[-1]!r}, or it lacks a value: see {prog} --help.")
    return parsed, options


def flags_from_files(argv: list[str], parser: ArgumentParser, run_file: str = "", also: set[str] = frozenset()) -> list:
    """Add `--config` to the parser, and return the settings of the files that `argv` names as flags."""
    first = ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", action="append", default=[])
    first.add_argument("--resume", nargs="?", const="true", default="false")
    first.add_argument("--output_dir", "--output-dir")
    known, _ = first.parse_known_args(argv)
    files = [Path(name) for name in known.config]
    if run_file and known.resume.lower() in ("true", "t", "yes", "y", "1") and known.output_dir:
        saved = Path(known.output_dir).expanduser() / run_file
        files = [saved, *files] if saved.is_file() else files

    parser.add_argument("--config", action="append", metavar="FILE.yaml", help="settings, one `name: value` a line")
    names = {name for action in parser._actions for name in action.option_strings} | also
    return [flag for file in files for flag in _flags(file, names)]


def _flags(file: Path, names: set[str]) -> list[str]:
    """The settings in a YAML file as the flags that would set them, so that both are checked in one place."""
    if not file.is_file():
        raise FileNotFoundError(f"There is no config file {file}.")
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not YAML: {error}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{file} must be a mapping, one `name: value` a line.")
    flags = []
    for name, value in settings.items():
        if f"--{name}" not in names:
            raise ValueError(f"{file}: there is no setting {name!r}.")
        if isinstance(value, dict):
            value = json.dumps(value)
        values = value if isinstance(value, list) else [value]
        flags += [] if value is None else [f"--{name}", *map(str, values)]
    return flags
