"""The parser of a command's options: errors in one line, and help that begins with the options that matter."""

import re
from argparse import SUPPRESS, Action, RawDescriptionHelpFormatter
from collections.abc import Iterable
from dataclasses import MISSING, fields
from difflib import get_close_matches
from enum import Enum
from typing import get_type_hints

import yaml
from transformers import HfArgumentParser

# What `--help` says of the fields of transformers' and TRL's arguments that most runs are about. `--help-all` shows the
# others, in the words of those libraries.
COMMON = {
    "num_train_epochs": "how often the text is read",
    "max_steps": "stop after so many steps of the optimizer, whatever num_train_epochs says; -1 for no such end",
    "per_device_train_batch_size": "examples in a batch on each device",
    "gradient_accumulation_steps": "batches in a step of the optimizer",
    "weight_decay": "share of a weight, times the learning rate, that a step takes away",
    "lr_scheduler_type": "how the learning rate falls: warmup_stable_decay, cosine, linear, constant and others",
    "warmup_steps": "steps in which the learning rate rises, or their share of the run if below 1",
    "max_grad_norm": "length to which gradients are cut; 0 for no cut",
    "seed": "of the weights, the order of the data, and dropout",
    "fp16": "train in float16, for GPUs without bfloat16",
    "gradient_checkpointing": "compute activations twice and keep fewer: less memory, about a third more time",
    "torch_compile": "compile the model: a slow first step, and faster ones after it",
    "eval_steps": "steps between evaluations, or their share of the run if below 1",
    "save_steps": "steps between saved checkpoints, or their share of the run if below 1",
    "logging_steps": "steps between logged losses, or their share of the run if below 1",
    "push_to_hub": "upload the checkpoint to the Hub while training",
    "hub_model_id": "with push_to_hub: the repository, as yourname/name",
    "beta": "how near the trained model stays to the one it began with",
    "loss_type": "the loss of preferences: sigmoid (DPO), hinge, ipo and others",
}
ENTRY = re.compile(r"^ +> (?P<section>.+)$|^ {4,8}(?P<name>\w+) ?\(.*\):\n(?P<text>(?:\n|^ {9,}.*\n)+)", re.M)
METAVARS = {int: "N", float: "X", bool: "true|false"}


class Parser(HfArgumentParser):
    """HfArgumentParser with options in groups, each with a text, and errors without the usage."""

    def __init__(self, groups: Iterable[type], prog: str, description: str = "", **kwargs):
        self.rare: set[str] = set()
        super().__init__(
            groups, prog=prog, description=described(description, prog), formatter_class=Formatter, allow_abbrev=False,
            add_help=False, usage=f"{prog} [options]", **kwargs,
        )  # fmt: skip
        other = self.add_argument_group("other options")
        other.add_argument("-h", "--help", action=Shown, help="show this help and exit")
        if self.rare:
            other.add_argument("--help-all", action=Shown, help=f"show {len(self.rare)} more options as well")
        other.add_argument("--config", action="append", metavar="FILE", help="settings, one `name: value` a line")
        other.add_argument("--config_template", action=Shown, help=SUPPRESS)  # what `folio config` asks for

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
            help = COMMON.get(field.name) if not is_ours else None
            action.help = help or action.help or text.replace("%", "%%")
            action.metavar = action.metavar or (None if action.choices else METAVARS.get(_type(field.type), "TEXT"))
            for other in negated:  # --name false says the same
                other.help = SUPPRESS

    def error(self, message: str):
        mark = "" if message.endswith("?") else ";"
        raise ValueError(f"{message}{mark} `{self.prog} --help` lists the options.")

    def unknown(self, flag: str, also: Iterable[str] = ()) -> None:
        """Raise ValueError for an option that is not there, with the nearest name that is."""
        near = get_close_matches(flag.partition("=")[0], [*self._option_string_actions, *also], 1)
        self.error(f"There is no option {flag!r}" + (f": did you mean {near[0]}?" if near else ""))

    def fill(self, words: list[str]) -> tuple:
        """Return the dataclasses, a namespace of the other arguments if there are any, and the words left over."""
        return self.parse_args_into_dataclasses(words, look_for_args_file=False, return_remaining_strings=True)

    def template(self) -> str:
        """A YAML file for `--config`: each option with its text, as a comment unless it is required."""
        lines = [f"# Settings of `{self.prog} --config FILE`. Remove the # before a setting to change it."]
        for group in self._action_groups:
            shown = [action for action in group._group_actions if action.dest not in {SUPPRESS, "config", *self.rare}]
            shown = [action for action in shown if action.option_strings and action.help != SUPPRESS]
            lines += [f"\n# --- {group.title} ---"] if shown else []
            for action in shown:
                default = plain(action.default)
                value = "" if default is None else yaml.safe_dump(default, default_flow_style=True, width=1000)
                setting = f"{action.dest}: {value.split(chr(10))[0]}".strip()
                text = f"# {action.help}".replace("%%", "%")
                lines += [text, setting if action.required else f"#{setting}"]
        return "\n".join(lines)


class Shown(Action):
    """An option that prints something in the place of the command's work."""

    def __init__(self, option_strings: list[str], dest: str, help: str):
        super().__init__(option_strings, SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: Parser, namespace, values, option_string: str | None = None) -> None:
        if option_string == "--config_template":
            print(parser.template())
        else:
            for action in parser._actions:
                if action.dest in parser.rare and option_string != "--help-all":
                    action.help = SUPPRESS
            parser.print_help()
        parser.exit()


class Formatter(RawDescriptionHelpFormatter):
    """The examples as they are written, one name for each option, and the defaults that there are."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32, width=100)

    def _format_action_invocation(self, action: Action) -> str:
        if not action.option_strings or "-h" in action.option_strings:
            return super()._format_action_invocation(action)
        is_switch = action.nargs == 0 or (action.nargs == "?" and action.default is not True)
        values = "" if is_switch else f" {action.metavar or '|'.join(action.choices)}"
        return action.option_strings[0] + values + (" ..." if action.nargs == "+" else "")

    def _get_help_string(self, action: Action) -> str:
        value = plain(action.default)
        if action.required or value in (None, False, "", SUPPRESS, [], {}):
            return (action.help or "") + (" (required)" if action.required and action.option_strings else "")
        shown = " ".join(map(str, value)) if isinstance(value, list) else value
        return f"{action.help or ''} (default: {shown})".lstrip().replace("%%", "%").replace("%", "%%")


def described(doc: str, prog: str) -> str:
    """What a command is for: the whole docstring of its module, or of one of its jobs' the examples alone.

    A job's description is one line, a blank one, and the docstring.
    """
    what, _, rest = doc.strip().partition("\n\n\n")
    examples = [line for line in rest.splitlines() if line.strip().startswith(prog)]
    return "\n".join([what, "", *examples]) if examples else what


def documented(dtype: type) -> dict[str, tuple[str, str]]:
    """The section and the first sentence of each argument in the docstrings of transformers' and TRL's classes."""
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


def _type(hint: type) -> type | None:
    """The type of one value of an option."""
    kinds = [kind for kind in getattr(hint, "__args__", (hint,)) if kind is not type(None)]
    return kinds[0] if kinds else None


def plain(value):
    """A default as YAML and people write it."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if value is MISSING else value.value if isinstance(value, Enum) else value
