"""Say what a pretraining run will take before it starts: parameters, memory and time by part.

    folio doctor --corpus shakespeare.txt --size micro
    folio doctor --config runs/mine/run.yaml

Takes what `folio pretrain` takes, and writes nothing.
"""


def main(argv: list[str]) -> None:
    from ..data.arguments import CorpusArguments
    from ..training.arguments import ModelArguments, PretrainingArguments
    from ..training.doctor import diagnose, show
    from .arguments import parse

    groups = [CorpusArguments, ModelArguments, PretrainingArguments]
    corpus, model, args = parse(argv, groups, "folio doctor", __doc__)
    print(show(diagnose(corpus, model, args)))
