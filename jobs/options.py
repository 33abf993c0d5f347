"""Fields of dataclasses that become flags of commands."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


def option(default: Any, help: str, **metadata: Any) -> Any:
    """Make the field of a flag that is no list; `metadata` is what HfArgumentParser passes to argparse."""
    return field(default=default, metadata={"help": help, **metadata})


def switch(help: str) -> Any:
    """Make the field of a flag that is true, with or without that word, or false, or None if it is not given."""
    return option(None, help, nargs="?", const=True)


def check_ranges(settings: Any, ranges: dict[str, tuple[float, float]], above_zero: Iterable[str]) -> None:
    """Raise ValueError for a setting outside its range [least, limit), one that is not above zero, and no max_steps."""
    for name, (least, limit) in ranges.items():
        if (value := getattr(settings, name)) is not None and not least <= value < limit:
            upper = "" if limit == math.inf else f", and less than {limit}"
            raise ValueError(f"{name} is {value}: give at least {least}{upper}.")
    for name in above_zero:
        if (value := getattr(settings, name)) is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}: give a number above 0.")
    if settings.max_steps < 1 and settings.max_steps != -1:
        raise ValueError(f"max_steps is {settings.max_steps}: give at least 1, or leave it out.")


@dataclass
class JsonArguments:
    """The form of what a command prints."""

    json: bool = option(False, "print JSON instead of a table")
