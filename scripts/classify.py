"""Label texts, with probabilities, using a model of `folio finetune classify` or any other classifier.

    folio classify --model runs/speakers --text "O Romeo, Romeo!"
    folio classify --model runs/speakers --file lines.txt --json
    printf 'O Romeo, Romeo!\\nGood morrow, cousin.\\n' | folio classify --model runs/speakers

--text is one text, also if it has several lines. Each line of a file or a pipe is a text. The end of a text that is
longer than the model's context is left out.
"""

import json
from dataclasses import dataclass, field


@dataclass
class ClassifyArguments:
    model: str = field(metadata={"help": "directory or Hub name of a checkpoint or adapter"})
    text: str | None = field(default=None, metadata={"help": "text to label"})
    file: str | None = field(default=None, metadata={"help": "file with one text per line"})
    top_k: int = field(default=5, metadata={"help": "number of labels to print per text"})
    json: bool = field(default=False, metadata={"help": "print a line of JSON per text"})
    trust_remote_code: bool = field(default=False, metadata={"help": "run the checkpoint's Python code (not for ours)"})


def main(argv: list[str]) -> None:
    from ..checkpoints.loading import load_model
    from ..evaluation.predictions import classify
    from .arguments import parse
    from .inputs import read_text

    (args,) = parse(argv, [ClassifyArguments], "folio classify", __doc__)
    if args.top_k < 1:
        raise ValueError(f"--top_k is {args.top_k}: give a whole number from 1 on.")
    text = read_text(args.text, args.file)
    texts = [text] if args.text is not None else [line for line in text.splitlines() if line.strip()]
    model, tokenizer = load_model(args.model, "classify", args.trust_remote_code)
    for text in texts:  # one by one, so that the first lines of a long file are printed at once
        (scores,) = classify(model, tokenizer, [text])
        shown = dict(list(scores.items())[: args.top_k])
        if args.json:
            print(json.dumps({"text": text, "labels": shown}, ensure_ascii=False), flush=True)
        else:
            print("  ".join(f"{label} {score:.3f}" for label, score in shown.items()) + f"  | {text}", flush=True)
