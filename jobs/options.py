"""Fields of dataclasses that become flags of commands."""

from dataclasses import field
from typing import Any


def option(default: Any, help: str, **metadata: Any) -> Any:
    """Make the field of a flag that is no list; `metadata` is what HfArgumentParser passes to argparse."""
    return field(default=default, metadata={"help": help, **metadata})


def switch(help: str) -> Any:
    """Make the field of a flag that is true, with or without that word, or false, or None if it is not given."""
    return option(None, help, nargs="?", const=True)
