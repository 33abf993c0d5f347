"""Try out settings: many training runs, one after another, and a table of their results.

    folio sweep --config sweep.yaml --output_dir runs/sweep
    folio compare runs/sweep --plot losses.png

The file names the command, the settings of all runs, and those that vary, with a list of values or low and high:

    command: pretrain
    settings: {corpus: [shakespeare.txt], max_steps: 200}
    vary:
      learning_rate: {low: 0.005, high: 0.05, log: true}
      weight_decay: [0.0, 0.1]
    runs: 8
    minutes: 60

`search: optuna` chooses values by the results of earlier runs. Repeat the command to continue a stopped sweep.
"""

import sys


def main(argv: list[str]) -> None:
    from ..evaluation.comparison import compare, show
    from ..evaluation.results import to_json
    from ..jobs.options import JsonArguments
    from ..training.sweep import Sweep, run_sweep, sort_key
    from .arguments import parse

    sweep, args = parse(argv, [Sweep, JsonArguments], "folio sweep", __doc__)
    runs, failed = run_sweep(sweep, lambda line: print(line, file=sys.stderr if args.json else sys.stdout, flush=True))
    compared = compare(sorted(runs, key=sort_key))
    if args.json:
        print(to_json({**compared, "failed": failed}))
        return
    print(show({**compared, "samples": [None] * len(runs)}))
    for folder, error in failed.items():
        print(f"{folder} failed: {error}")
