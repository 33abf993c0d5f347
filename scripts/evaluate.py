"""Evaluate a model: metrics with 95 % confidence intervals, next to a baseline.

    folio evaluate --model runs/shakespeare --data shakespeare.txt
    folio evaluate --model runs/tuned --baseline runs/shakespeare --data dialogues.jsonl --output tuned.json
    folio evaluate --model runs/labels --data test.csv --train_data train.csv --output labels.json
    folio evaluate --model runs/shakespeare --data shakespeare.txt --task samples --train_data shakespeare.txt

The model and its data decide the task, unless --task does: lm, sft, dpo, classify, tag, qa, summarize, samples.
Any other option is a field of transformers' GenerationConfig, for tasks in which the model generates text.
"""


def main(argv: list[str]) -> None:
    from ..evaluation.arguments import EvaluationArguments
    from .arguments import parse_with_generation

    args, options = parse_with_generation(argv, EvaluationArguments, "folio evaluate", __doc__)
    from ..evaluation.run import evaluate, show

    print(show(evaluate(args, options)))
