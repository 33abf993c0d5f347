"""Estimate what a pretraining run will take before it starts: parameters, memory and time, part by part.

    folio estimate --corpus shakespeare.txt --size micro
    folio estimate --config runs/mine/run.yaml --json

Takes the options of `folio pretrain`, and writes no file.
"""


def main(argv: list[str]) -> None:
    from ..data.arguments import CorpusArguments
    from ..evaluation.results import to_json
    from ..jobs.options import JsonArguments
    from ..jobs.report import Stages
    from ..training.arguments import ModelArguments, PretrainingArguments
    from ..training.depth import DepthArguments
    from ..training.estimate import estimate, show
    from .arguments import parse

    groups = [JsonArguments, CorpusArguments, ModelArguments, PretrainingArguments, DepthArguments]
    chosen, corpus, model, args, _ = parse(argv, groups, "folio estimate", __doc__)
    found = estimate(corpus, model, args, Stages(silent=chosen.json))
    print(to_json(found) if chosen.json else show(found))
