"""Clean a corpus: normalize newlines, spaces and Unicode; remove control characters and duplicates.

    folio clean --corpus shakespeare.txt --output_dir runs/clean
    folio clean --corpus stories.txt --separator "<|endoftext|>" --output_dir runs/stories
    folio pretrain --corpus runs/clean/corpus.jsonl --output_dir runs/model --minutes 3

The remaining documents are written to `corpus.jsonl`, and the number of changes to `report.json`.
"""

import json
from dataclasses import asdict, dataclass, field
from itertools import chain

from ..jobs.options import option


@dataclass
class CleanArguments:
    output_dir: str = field(metadata={"help": "folder for corpus.jsonl and report.json"})
    separator: str | None = option(None, "separator between documents within a text")
    near_duplicates: float = option(0.8, "similarity from which a document is dropped; 0 drops exact copies only")
    overwrite: bool = option(False, "replace the cleaned corpus in output_dir")


def main(argv: list[str]) -> None:
    from ..data.arguments import CorpusArguments
    from ..data.cleaning import preprocess
    from ..data.corpora import load_corpus
    from ..jobs.run_folder import lock_run_folder
    from ..jobs.saving import staged
    from .arguments import parse

    corpus, args = parse(argv, [CorpusArguments, CleanArguments], "folio clean", __doc__)
    with lock_run_folder(args.output_dir, args.overwrite, marker="corpus.jsonl") as output_dir:
        documents: dict[str, str] = {}
        for spec in corpus.corpus:
            options = {"streaming": corpus.streaming, "skip_malformed": corpus.skip_malformed}
            splits = load_corpus(spec, text_column=corpus.text_column, **options)
            for row in chain.from_iterable(splits.values()):  # a split of a small corpus has a part of each text
                name = row["name"] if len(corpus.corpus) == 1 else f"{spec}/{row['name']}"
                documents[name] = documents.get(name, "") + row["text"]
        cleaned, report = preprocess(documents.items(), args.separator, args.near_duplicates or None)
        if not cleaned:
            raise ValueError(f"No document of {' + '.join(corpus.corpus)} is left: give another corpus.")
        with staged(output_dir) as folder:
            with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
                for name, text in cleaned:
                    file.write(json.dumps({"name": name, "text": text}, ensure_ascii=False) + "\n")
            (folder / "report.json").write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    print(report.table())
