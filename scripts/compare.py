"""Compare training runs: the settings that differ, losses in one picture, figures and samples beside one another.

    folio compare runs/a runs/b
    folio compare runs --picture losses.png --output compared.json

Each argument is the folder of a run, or a folder of such folders; `folio runs` lists what one holds. For intervals of
the difference between two models, see `folio evaluate --before`.
"""

from dataclasses import dataclass

from ..jobs.options import option


@dataclass
class CompareArguments:
    picture: str | None = option(None, "draw the losses over steps, tokens and seconds into this PNG file")
    output: str | None = option(None, "write the comparison into this JSON file as well")


def main(argv: list[str]) -> None:
    from .arguments import parse

    folders, args = parse(argv, [CompareArguments], "folio compare", __doc__, positional=["RUN..."])
    from ..evaluation.comparison import compare, draw, find_runs, show
    from ..evaluation.results import check_writable, write_json

    for file in filter(None, (args.output, args.picture)):
        check_writable(file)
    runs = [run for folder in folders for run in find_runs(folder)]
    if len(runs) < 2:
        raise ValueError(f"There is nothing to compare {runs[0].folder} with: give two runs, or a folder of them.")
    compared = compare(runs)
    if args.picture:
        draw(runs, args.picture)
    if args.output:
        write_json(args.output, compared)
    print(show(compared))
