"""Write a text to train on: Shakespeare's plays, 1.1 MB.

folio data shakespeare
folio data shakespeare --output texts/plays.txt
"""

from dataclasses import dataclass
from pathlib import Path

from ..jobs.options import option

TEXTS = {"shakespeare": Path(__file__).parents[1] / "notebooks" / "data" / "shakespeare.txt"}


@dataclass
class DataFileArguments:
    output: str | None = option(None, "the file to write; by default shakespeare.txt in this folder")


def main(argv: list[str]) -> None:
    from ..evaluation.results import write_text
    from .arguments import parse

    name, args = parse(argv, [DataFileArguments], "folio data", __doc__, positional=["NAME"])
    if name not in TEXTS:
        raise ValueError(f"There is no text {name!r}: give {', '.join(TEXTS)}.")
    if not TEXTS[name].is_file():
        raise FileNotFoundError("The texts come with a clone: git clone https://github.com/foliogpt/foliogpt")
    text, file = TEXTS[name].read_text(encoding="utf-8"), Path(args.output or f"{name}.txt").expanduser()
    if file.exists() and (not file.is_file() or file.read_text(encoding="utf-8", errors="replace") != text):
        raise FileExistsError(f"{file} is there already: give another --output.")
    write_text(file, text)
    print(
        f"{file}: {len(text):,} characters\nTry it: folio pretrain --corpus {file} --minutes 3 --output_dir runs/plays"
    )
