"""Merge an adapter and its base into one checkpoint, which loads without PEFT and is as fast as the base.

folio merge runs/chat runs/chat-merged
"""

from dataclasses import dataclass, field


@dataclass
class MergeArguments:
    trust_remote_code: bool = field(default=False, metadata={"help": "run the Python code of the base (not for ours)"})


def main(argv: list[str]) -> None:
    from ..training.finetuning.merging import merge
    from .arguments import parse

    adapter, destination, args = parse(argv, [MergeArguments], "folio merge", __doc__, positional=("ADAPTER", "DST"))
    parameters = merge(adapter, destination, args.trust_remote_code)
    print(f"{adapter} and its base are now {destination} ({parameters:,} parameters)")
