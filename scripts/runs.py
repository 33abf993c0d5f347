"""List the training runs in a folder, with what came out of them.

folio runs
folio runs runs/experiments
"""


def main(argv: list[str]) -> None:
    if argv and argv[0].startswith("-"):
        print(__doc__)
        return
    if len(argv) > 1:
        raise ValueError(f"`folio runs` takes one folder, not {len(argv)}: give one that holds runs.")
    from ..evaluation.comparison import find_runs, table

    print(table([run.summary() for run in find_runs(argv[0] if argv else "runs")]))
