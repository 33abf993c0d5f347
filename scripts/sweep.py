"""Try out settings: many training runs, one after another, and what came out of each.

    folio sweep --config sweep.yaml --output_dir runs/sweep
    folio compare runs/sweep --picture losses.png

The file names the command, the settings of all runs, and those that vary, with a list of values or low and high:

    command: pretrain
    settings: {corpus: [shakespeare.txt], max_steps: 200}
    vary:
      learning_rate: {low: 0.005, high: 0.05, log: true}
      weight_decay: [0.0, 0.1]
    runs: 8
    minutes: 60

The same command goes on with a sweep that was stopped.
"""


def main(argv: list[str]) -> None:
    from ..evaluation.comparison import compare, show
    from ..training.sweep import Sweep, judged_by, run_sweep
    from .arguments import parse

    (sweep,) = parse(argv, [Sweep], "folio sweep", __doc__)
    runs, failed = run_sweep(sweep)
    runs.sort(key=judged_by)
    print(show({**compare(runs), "samples": [None] * len(runs)}))
    for folder, error in failed.items():
        print(f"{folder} failed: {error}")
