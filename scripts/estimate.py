"""Estimate what a pretraining run will take before it starts: parameters, memory and time, part by part.

    folio estimate --corpus shakespeare.txt --size micro
    folio estimate --config runs/mine/run.yaml

Takes the options of `folio pretrain`, and writes nothing.
"""


def main(argv: list[str]) -> None:
    from ..data.arguments import CorpusArguments
    from ..training.arguments import ModelArguments, PretrainingArguments
    from ..training.depth import Dial
    from ..training.estimate import estimate, show
    from .arguments import parse

    groups = [CorpusArguments, ModelArguments, PretrainingArguments, Dial]
    corpus, model, args, _ = parse(argv, groups, "folio estimate", __doc__)
    print(show(estimate(corpus, model, args)))
