"""Compare training runs: the settings that differ, losses in one plot, metrics and samples side by side.

    folio compare runs/a runs/b
    folio compare runs --plot losses.png --output compared.json

Each argument is the folder of a run, or a folder of such folders; `folio runs` lists what one holds. For intervals of
the difference between two models, see `folio evaluate --baseline`.
"""

from dataclasses import dataclass

from ..jobs.options import JsonArguments, option


@dataclass
class CompareArguments(JsonArguments):
    plot: str | None = option(None, "PNG file for a plot of the losses over steps, tokens and seconds")
    output: str | None = option(None, "JSON file for the comparison")


def main(argv: list[str]) -> None:
    from .arguments import parse

    folders, args = parse(argv, [CompareArguments], "folio compare", __doc__, positional=["RUN..."])
    from ..evaluation.comparison import compare, find_runs, plot_losses, show
    from ..evaluation.results import check_writable, to_json, write_json

    for file in filter(None, (args.output, args.plot)):
        check_writable(file)
    runs = [run for folder in folders for run in find_runs(folder)]
    if len(runs) < 2:
        raise ValueError(f"There is nothing to compare {runs[0].folder} with: give two runs, or a folder of them.")
    compared = compare(runs)
    if args.plot:
        plot_losses(runs, args.plot)
    if args.output:
        write_json(args.output, compared)
    print(to_json(compared) if args.json else show(compared))
