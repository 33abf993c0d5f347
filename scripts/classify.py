"""Labels of texts with their probabilities, from a model of `folio finetune classify` or any other classifier.

    folio classify --model runs/speakers --text "O Romeo, Romeo!"
    folio classify --model runs/speakers --file lines.txt --json
    printf 'O Romeo, Romeo!\\nGood morrow, cousin.\\n' | folio classify --model runs/speakers

--text is one text, whatever is in it; of a file or a pipe, each line is one. A text that is longer than the model's
context loses its end.
"""

import json
from dataclasses import dataclass, field


@dataclass
class ClassifyArguments:
    model: str = field(metadata={"help": "a checkpoint's or an adapter's directory or Hub name"})
    text: str | None = field(default=None, metadata={"help": "one text"})
    file: str | None = field(default=None, metadata={"help": "a file with a text a line"})
    top_k: int = field(default=5, metadata={"help": "labels that are shown of each text"})
    json: bool = field(default=False, metadata={"help": "print a line of JSON for each text"})
    trust_remote_code: bool = field(default=False, metadata={"help": "run the code in the checkpoint; not for ours"})


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
    for text in texts:  # one by one: the first lines of a long file are there at once
        (scores,) = classify(model, tokenizer, [text])
        shown = dict(list(scores.items())[: args.top_k])
        if args.json:
            print(json.dumps({"text": text, "labels": shown}, ensure_ascii=False), flush=True)
        else:
            print("  ".join(f"{label} {score:.3f}" for label, score in shown.items()) + f"  | {text}", flush=True)
