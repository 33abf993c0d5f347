"""List the training runs in a folder, with their results.

    folio runs
    folio runs runs/experiments --json

Without a folder, lists those in `runs`.
"""


def main(argv: list[str]) -> None:
    from ..evaluation.comparison import find_runs, table
    from ..evaluation.results import to_json
    from ..jobs.options import JsonArguments
    from .arguments import parse

    folders, args = parse(argv, [JsonArguments], "folio runs", __doc__, positional=["[FOLDER...]"])
    if len(folders) > 1:
        raise ValueError(f"`folio runs` takes one folder, not {len(folders)}: give one that holds runs.")
    summaries = [run.summary() for run in find_runs(*folders or ["runs"])]
    print(to_json(summaries) if args.json else table(summaries))
