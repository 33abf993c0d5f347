"""Fit a scaling law to a grid of small runs, and test whether it predicts a larger one.

    folio scale --corpus shakespeare.txt --tokenizer char --minutes 20 --output_dir runs/scale
    folio scale --output_dir runs/scale --resume

Writes the runs, the law and the prediction to scaling.json, and a plot to scaling.png.
"""


def main(argv: list[str]) -> None:
    from ..data.arguments import CorpusArguments
    from ..jobs.run_folder import SCALE_FILE
    from ..training.scaling.plan import ScaleArguments
    from ..training.scaling.study import scale, summary
    from .arguments import parse

    corpus, chosen = parse(argv, [CorpusArguments, ScaleArguments], "folio scale", __doc__, run_file=SCALE_FILE)
    print(summary(scale(corpus, chosen)))
