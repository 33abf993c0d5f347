"""Train a tokenizer on a corpus.

    folio tokenizer train --corpus shakespeare.txt --vocab_size 1000 --output_dir runs/tokenizer

The directory loads with plain `AutoTokenizer.from_pretrained`.
"""

import shlex
from dataclasses import dataclass, field


@dataclass
class TokenizerArguments:
    output_dir: str = field(metadata={"help": "where the tokenizer is written"})
    vocab_size: int = field(default=4096, metadata={"help": "number of token ids"})
    overwrite: bool = field(default=False, metadata={"help": "replace the tokenizer that is there"})


def main(argv: list[str]) -> None:
    if not argv or argv[0] != "train":
        if not argv or argv[0] in ("-h", "--help"):
            print(__doc__)
            return
        raise ValueError(f"There is no `folio tokenizer {argv[0]}`: choose `train`.")

    from ..tokenization import train_tokenizer
    from ..training.arguments import CorpusArguments
    from ..training.checkpoints import staged
    from ..training.data import read_corpus, texts
    from ..training.run_folder import claimed
    from .arguments import parse

    corpus, args = parse(
        argv[1:],
        [CorpusArguments, TokenizerArguments],
        "folio tokenizer train",
        "Train a byte-level BPE tokenizer.",
    )
    with claimed(args.output_dir, args.overwrite, marker="tokenizer.json") as output_dir:
        read = [read_corpus(spec, corpus) for spec in corpus.corpus]
        tokenizer = train_tokenizer(texts(each.train for each in read), args.vocab_size)
        with staged(output_dir) as folder:
            tokenizer.save_pretrained(folder)
    print(f"{len(tokenizer):,} tokens in {args.output_dir}")
    next_step = ["folio", "pretrain", "--tokenizer", args.output_dir, "--output_dir", "runs/model", "--minutes", "3"]
    print(f"Try it: {shlex.join(next_step)}")
