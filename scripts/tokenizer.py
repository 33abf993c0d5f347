"""Train a tokenizer, or show how one cuts a text.

    folio tokenizer train --corpus shakespeare.txt --vocab_size 1000 --output_dir runs/tokenizer
    folio tokenizer inspect "To be, or not to be" --tokenizer runs/tokenizer
    folio tokenizer inspect shakespeare.txt --tokenizer runs/tokenizer --vs openai-community/gpt2
    folio tokenizer inspect shakespeare.txt --tokenizer runs/tokenizer --json

`train` writes a directory that loads with plain `AutoTokenizer.from_pretrained`. `folio tokenizer train --help` and
`folio tokenizer inspect --help` list the options.
"""

import os
import shlex
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..jobs.options import option

SHOWN_TOKENS = 200


@dataclass
class TrainArguments:
    output_dir: str = field(metadata={"help": "directory for the tokenizer"})
    vocab_size: int = option(4096, "number of token ids of the new tokenizer")
    overwrite: bool = option(False, "replace a tokenizer in --output_dir")


@dataclass
class InspectArguments:
    tokenizer: str | None = option(None, "a directory or Hub name; by default, one is trained on the Python manual")
    vs: str | None = option(None, "another tokenizer to compare with, as a directory or Hub name")
    json: bool = option(False, "print the metrics alone, as a JSON list with an object for each tokenizer")


def train(argv: list[str]) -> None:
    from ..data.arguments import CorpusArguments
    from ..data.packed_corpus import read_corpus, texts
    from ..jobs.report import peak_memory_bytes
    from ..jobs.run_folder import lock_run_folder
    from ..jobs.saving import staged
    from ..tokenization import train_tokenizer
    from .arguments import parse

    what = "Train a byte-level BPE tokenizer."
    corpus, args = parse(argv, [CorpusArguments, TrainArguments], "folio tokenizer train", f"{what}\n\n\n{__doc__}")
    with lock_run_folder(args.output_dir, args.overwrite, marker="tokenizer.json") as output_dir:
        read = [read_corpus(spec, corpus) for spec in corpus.corpus]
        tokenizer = train_tokenizer(texts(each.train for each in read), args.vocab_size)
        with staged(output_dir) as folder:
            tokenizer.save_pretrained(folder)
    print(f"{len(tokenizer):,} tokens in {args.output_dir}; peak memory {peak_memory_bytes() / 1e9:.2f} GB")
    next_step = ["folio", "pretrain", "--tokenizer", args.output_dir, "--output_dir", "runs/model", "--minutes", "3"]
    print(f"Try it: {shlex.join(next_step)}")


def inspect(argv: list[str]) -> None:
    from .arguments import parse

    what = f"Show how a tokenizer cuts a text.\n\n\n{__doc__}"
    source, args = parse(argv, [InspectArguments], "folio tokenizer inspect", what, positional=["TEXT|FILE"])

    from ..data.corpora import load_corpus
    from ..data.preprocessing import decode
    from ..evaluation.results import to_json
    from ..tokenization import inspection, load_tokenizer, train_tokenizer
    from ..tokenization.tokenizer_json import check_unicode

    path = os.path.expanduser(source)
    if os.path.isdir(path):
        raise ValueError(f"{source} is a folder: give a file or a text.")
    is_file = os.path.isfile(path)
    text = decode(Path(path).read_bytes(), source) if is_file else source
    if not text:
        raise ValueError("The text is empty: there is nothing to inspect.")
    check_unicode(text)
    tokenizers = {name: load_tokenizer(name) for name in (args.tokenizer, args.vs) if name}
    if not args.tokenizer:
        manual = train_tokenizer(load_corpus()["train"]["text"], show_progress=False)
        tokenizers = {"python-manual": manual, **tokenizers}

    if not args.json:
        name = f"the file {source}" if is_file else "the text itself"
        print(f"{name}: {len(text):,} characters, {len(text.encode()):,} bytes")
        colors = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        for name, tokenizer in tokenizers.items():
            print(f"\n{name}\n{inspection.cells(tokenizer, text, SHOWN_TOKENS, colors)}", flush=True)
    found = [inspection.inspect(tokenizer, text, name) for name, tokenizer in tokenizers.items()]
    print(to_json([asdict(each) for each in found]) if args.json else f"\n{inspection.table(found)}")


JOBS = {"train": train, "inspect": inspect}
