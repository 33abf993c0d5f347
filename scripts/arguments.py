"""Command-line arguments from dataclasses: defaults from YAML files, errors of one line, and help in groups."""

import json
import re
import shlex
from argparse import SUPPRESS, Action, ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from enum import Enum
from functools import partial
from pathlib import Path
from typing import get_type_hints

import yaml
from transformers import GenerationConfig, HfArgumentParser
from transformers.hf_argparser import string_to_bool

from ..jobs.run_folder import RUN_METADATA_KEYS

YES = ("true", "t", "yes", "y", "1")
# Settings that run code or send data. Another user may have written a run's file, so only flags can turn them on.
CONSENT = ("trust_remote_code", "push_to_hub", "report_to")
# The fields of transformers' and TRL's arguments that `--help` lists, with our texts. `--help-all` lists the others,
# with the texts of those libraries.
COMMON = {
    "num_train_epochs": "number of times that the text is read",
    "max_steps": "number of optimizer steps, which overrides num_train_epochs; -1 for no limit",
    "per_device_train_batch_size": "number of sequences per batch and device",
    "gradient_accumulation_steps": "number of batches per optimizer step",
    "weight_decay": "share of a weight that a step removes, multiplied by the learning rate",
    "lr_scheduler_type": "schedule of the learning rate: warmup_stable_decay, cosine, linear, constant and others",
    "warmup_steps": "steps in which the learning rate rises, or their share of the run if below 1",
    "max_grad_norm": "maximum norm of the gradients; 0 for no limit",
    "seed": "random seed of the weights, the order of the data, and dropout",
    "fp16": "train in float16, for GPUs without bfloat16",
    "gradient_checkpointing": "compute activations twice and keep fewer: less memory, about a third more time",
    "torch_compile": "compile the model: a slow first step, and faster ones after it",
    "eval_steps": "steps between evaluations, or their share of the run if below 1",
    "save_steps": "steps between saved checkpoints, or their share of the run if below 1",
    "logging_steps": "steps between logged losses, or their share of the run if below 1",
    "push_to_hub": "upload the checkpoint to the Hub while training",
    "hub_model_id": "with push_to_hub: the repository, as yourname/name",
    "beta": "strength with which the trained model is kept close to the initial one",
    "loss_type": "loss of preferences: sigmoid (DPO), hinge, ipo and others",
}
ENTRY = re.compile(r"^ +> (?P<section>.+)$|^ {4,8}(?P<name>\w+) ?\(.*\):\n(?P<text>(?:\n|^ {9,}.*\n)+)", re.M)
DASHED = re.compile(r"-(?!\d+$|\d*\.\d+$)[^-\s]\S*")  # argparse takes it for an option, and not for a number
METAVARS = {int: "N", float: "X", string_to_bool: "true|false"}


class Parser(HfArgumentParser):
    """HfArgumentParser with options in groups, each with a text, and errors without the usage."""

    def __init__(self, groups: Iterable[type], prog: str, description: str, positional: Sequence[str] = ()):
        self.rare: set[str] = set()  # the options that only `--help-all` lists
        self.several = next((name for name in positional if name.endswith(("...", "...]"))), None)
        super().__init__(
            groups, prog=prog, usage=" ".join([prog, *positional, "[options]"]), allow_abbrev=False, add_help=False,
            description=described(description, prog), formatter_class=Formatter,
        )  # fmt: skip
        for name in positional:
            nargs = "*" if name.startswith("[") else "+"
            self.add_argument(name, nargs=nargs if name == self.several else None)
        other, shown = self.add_argument_group("other options"), {"action": Shown, "nargs": 0, "default": SUPPRESS}
        other.add_argument("-h", "--help", **shown, help="show this help and exit")
        if self.rare:
            other.add_argument("--help-all", **shown, help=f"show {len(self.rare)} more options as well")
        other.add_argument("--config", action="append", metavar="FILE", help="YAML file of settings, `name: value`")
        other.add_argument("--config_template", **shown, help=SUPPRESS)  # for `folio config`

    def _add_dataclass_arguments(self, dtype: type) -> None:
        texts, hints = documented(dtype), get_type_hints(dtype)
        for field in [field for field in fields(dtype) if field.init]:
            owner = next(kind for kind in dtype.__mro__ if field.name in vars(kind).get("__annotations__", {}))
            section, text = texts.get(field.name, ("other training options", ""))
            if is_ours := owner.__module__.startswith("foliogpt") and "help" in field.metadata:
                section = getattr(dtype, "_argument_group_name", "options")
            if field.name in getattr(dtype, "RARE", ()) or (not is_ours and field.name not in COMMON):
                self.rare.add(field.name)
            elif not is_ours:
                section = "common training options"
            group = next((group for group in self._action_groups if group.title == section), None)
            field.type = hints[field.name]
            before = len(self._actions)
            self._parse_dataclass_field(group or self.add_argument_group(section), field)
            action, *negated = self._actions[before:]
            action.help = (not is_ours and COMMON.get(field.name)) or action.help or text.replace("%", "%%")
            action.metavar = action.metavar or (None if action.choices else METAVARS.get(action.type, "TEXT"))
            for other in negated:  # --name false does the same
                other.help = SUPPRESS

    def error(self, message: str):
        mark = "" if message.endswith("?") else ";"
        raise ValueError(f"{message}{mark} `{self.prog} --help` lists the options.")

    def fill(self, words: list[str]) -> list:
        """Return the dataclasses and a namespace of the other arguments; ValueError for an unknown option."""
        options = words[: words.index("--")] if "--" in words else words
        # argparse would say that the argument before such a word has no value, or that a required one is missing.
        parsed, rest = [], [word for word in options if DASHED.fullmatch(word) and word != "-h"]
        if not rest:
            *parsed, rest = self.parse_args_into_dataclasses(words, True, look_for_args_file=False)
        if self.several and parsed:  # argparse reads the words before an option, or those after it, not both
            unknown = [word for word in rest if word.startswith("--") and word in options]
            getattr(parsed[-1], self.several).extend(word for word in rest if word not in ("--", *unknown))
            rest = unknown
        if not rest:
            return parsed
        name = rest[0].partition("=")[0]
        if name in self._option_string_actions:
            self.error(f'{name} comes after "--": put options before it')
        near = get_close_matches(name, self._option_string_actions, 1)
        remedy = f': write a value as --name={rest[0]}, a text or a path last, after "--"' if DASHED.match(name) else ""
        self.error(f"There is no option {rest[0]!r}" + (f": did you mean {near[0]}?" if near else remedy))

    def template(self) -> str:
        """Return a YAML file for `--config`: each option with its text, as a comment unless it is required."""
        lines = [f"# Settings of `{self.prog} --config FILE`. Remove the # before a setting to change it."]
        for group in self._action_groups:
            actions = [action for action in group._group_actions if action.option_strings and action.help != SUPPRESS]
            actions = [action for action in actions if action.dest not in {"help", "help_all", "config", *self.rare}]
            lines += [f"\n# --- {group.title} ---"] if actions else []
            for action in actions:
                default = plain(action.default)
                value = "" if default is None else yaml.safe_dump(default, default_flow_style=True, width=1000)
                setting = f"{action.dest}: {value.split(chr(10))[0]}".strip()
                text = f"# {action.help}".replace("%%", "%")
                lines += [text, setting if action.required else f"#{setting}"]
        return "\n".join(lines)


class Shown(Action):
    """An option that prints something instead of running the command."""

    def __call__(self, parser: Parser, namespace, values, option_string: str | None = None) -> None:
        if option_string == "--config_template":
            print(parser.template())
        else:
            hidden = set() if option_string == "--help-all" else parser.rare
            parser.formatter_class = partial(Formatter, hidden=hidden)
            parser.print_help()
        end = SystemExit(0)
        end.parser = parser  # for `folio completion`
        raise end


class Formatter(RawDescriptionHelpFormatter):
    """Help with the examples as they are written, one name for each option, and its default if there is one."""

    def __init__(self, prog: str, hidden: set[str] = frozenset()):
        super().__init__(prog, max_help_position=32, width=100)
        self.hidden = hidden

    def add_argument(self, action: Action) -> None:
        if action.dest not in self.hidden:
            super().add_argument(action)

    def _format_action_invocation(self, action: Action) -> str:
        if not action.option_strings or "-h" in action.option_strings:
            return super()._format_action_invocation(action)
        is_switch = action.nargs == 0 or (action.nargs == "?" and action.default is not True)
        values = "" if is_switch else f" {action.metavar or '|'.join(action.choices)}"
        return action.option_strings[0] + values + (" ..." if action.nargs == "+" else "")

    def _get_help_string(self, action: Action) -> str:
        value = plain(action.default)
        if action.required or value is False or value in (None, "", SUPPRESS, [], {}):
            return (action.help or "") + (" (required)" if action.required and action.option_strings else "")
        shown = " ".join(map(str, value)) if isinstance(value, list) else value
        return f"{action.help or ''} (default: {shown})".lstrip().replace("%%", "%").replace("%", "%%")


def described(doc: str, prog: str) -> str:
    """Return a module's docstring; if one line about a job and two empty ones come first, its examples of that job."""
    about, _, rest = doc.strip().partition("\n\n\n")
    examples = [line for line in rest.splitlines() if line.strip().startswith(prog)]
    return "\n".join([about, "", *examples]) if examples else about


def documented(dtype: type) -> dict[str, tuple[str, str]]:
    """Read the section and the first sentence of each argument from the docstrings of transformers and TRL."""
    found: dict[str, tuple[str, str]] = {}
    for kind in dtype.__mro__:
        section = "other training options"
        for entry in ENTRY.finditer(kind.__doc__ or ""):
            section = (entry["section"] or section).lower()
            if entry["name"]:
                text = re.sub(r"\[?`~?([^`]*)`\]?(\([^)]*\))?|\[([^]]*)\]\([^)]*\)|\*\*", r"\1\3", entry["text"])
                sentence = re.split(r"(?<=[^.][^.][.:])\s|\n\s*\n|\n\s*- ", text.strip())[0]
                found.setdefault(entry["name"], (section, " ".join(sentence.split()).rstrip(".:")))
    return found


def plain(value):
    """Convert a default to a value that YAML can hold."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if value is MISSING else value.value if isinstance(value, Enum) else value


def parse(
    argv: list[str], groups: list[type], prog: str, description: str, run_file: str = "", positional: Sequence[str] = ()
) -> tuple:
    """Fill the dataclasses `groups` from `--config FILE.yaml`, then from the flags, which win.

    The words that `positional` names come before the dataclasses in what is returned. With `run_file`, `--resume`
    starts from the settings that the run in `--output_dir` wrote under that name.
    """
    parser = Parser(groups, prog, description, positional)
    flags = [*flags_from_files(argv, parser, run_file), *argv]
    for group in groups:
        if hasattr(group, "implied"):  # an option that changes the defaults of others
            parser.set_defaults(**group.implied(parser.parse_known_args(flags)[0], flags))
    *parsed, others = parser.fill(flags)
    return (*(getattr(others, name) for name in positional), *parsed)


def parse_with_generation(argv: list[str], group: type, prog: str, doc: str, positional: Sequence[str] = ()) -> tuple:
    """Fill the dataclass `group`, and a dict of the fields of GenerationConfig that are given, their values as YAML."""
    parser = Parser([group], prog, doc, positional)
    for name in GenerationConfig().to_dict():
        if (flag := f"--{name}") not in parser._option_string_actions:
            flags = dict.fromkeys((flag, f"--{name.replace('_', '-')}"))
            parser.add_argument(*flags, type=yaml_value, nargs="?", const=True, default=SUPPRESS, help=SUPPRESS)
    args, others = parser.fill([*flags_from_files(argv, parser), *argv])
    options = vars(others)
    _, *words = [options.pop(name) for name in ("config", *positional)]
    return (*words, args, options)


def yaml_value(text: str):
    """Read a value as YAML: a number, true or false, a list, or a text."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        quoted = shlex.quote(json.dumps(text))
        raise ArgumentTypeError(f"{text} is not YAML: put it in quotes, as in {quoted}") from None


def command_line(prog: str, argv: list[str]) -> str:
    """Return the command without the secret that `--hub_token` takes, so that a model card can show it."""
    words = prog.split()
    for before, word in zip(["", *argv], argv, strict=False):
        is_secret = before in ("--hub_token", "--hub-token")
        words.append("HIDDEN" if is_secret else re.sub(r"(?s)^(--hub[-_]token)=.*", r"\1=HIDDEN", word))
    return shlex.join(words)


def flags_from_files(argv: list[str], parser: Parser, run_file: str = "") -> list[str]:
    """Return the settings of the files that `argv` names with `--config` or `--resume`, as flags."""
    first = ArgumentParser(parser.prog, add_help=False, allow_abbrev=False)
    first.error = parser.error
    first.add_argument("--config", action="append", default=[])
    first.add_argument("--resume", nargs="?", const="true")
    first.add_argument("--output_dir", "--output-dir")
    known, _ = first.parse_known_args(argv)

    files = {Path(name): _settings(Path(name)) for name in known.config}
    chosen = {"output_dir": parser.get_default("output_dir"), "resume": "false"}
    for settings in (*files.values(), vars(known)):
        chosen |= {name: settings[name] for name in chosen if settings.get(name) is not None}
    if run_file and str(chosen["resume"]).lower() in YES:
        saved = Path(chosen["output_dir"]).expanduser() / run_file
        if saved.is_file():
            files = {saved: _without_consent(saved, argv), **files}
    return [flag for file, settings in files.items() for flag in _flags(file, settings, parser)]


def _without_consent(saved: Path, argv: list[str]) -> dict:
    """Return the settings of a run without those that only a flag can allow; ValueError if `argv` omits one."""
    settings = _settings(saved)
    given = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in argv if word.startswith("--")}
    for name in CONSENT:
        value = settings.pop(name, None)
        if value not in (None, False, "none", [], ["none"]) and name not in given:
            shown = shlex.join(map(str, value if isinstance(value, list) else [str(value).lower()]))
            other = "none" if name == "report_to" else "false"
            remedy = f"if you trust this run, repeat it as --{name} {shown}; otherwise give --{name} {other}"
            raise ValueError(f"{saved} asks for {name} {shown}, which only a flag can allow: {remedy}.")
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


def _flags(file: Path, settings: dict, parser: Parser) -> list[str]:
    """Return the flags that would set the settings, so that both are checked in one place."""
    flags = []
    for name, value in settings.items():
        action = parser._option_string_actions.get(f"--{name}")
        if action is None or name == "config":
            raise ValueError(f"{file}: there is no setting {name!r}.")
        if isinstance(value, list) and action.nargs == "+":
            flags += [f"--{name}", *map(str, value)] if value else []
        elif isinstance(value, list) and action.type is not yaml_value:
            raise ValueError(f"{file}: {name} takes one value, not a list.")
        elif value is not None:
            # As one word: a value may begin with a dash.
            flags.append(f"--{name}={json.dumps(value) if isinstance(value, (dict, list)) else value}")
    return [*flags, f"--config={file}"]  # which ends a list: the next word of the command is none of its values
