"""Train your own embedding model: a checkpoint learns to find the passages of your documents.

    folio embedder train --model runs/quickstart --corpus python-manual --output_dir runs/embedder
    folio embedder train --model runs/quickstart --pairs questions.jsonl --output_dir runs/embedder
    folio rag sync docs --index runs/index --embedder runs/embedder
    folio embedder train --model runs/quickstart --corpus docs --reranker --output_dir runs/reranker
    folio rag search "How is a model exported?" --index runs/index --reranker runs/reranker

--model takes a checkpoint of ours, any encoder or causal model, or a sentence-transformers model. The training pairs
are made of the documents' titles, headings and sentences, or are rows of anchor and positive, query and text, or
question and answer. --reranker trains a cross-encoder, which reads a question together with each passage that was
found, and sorts them again. `folio embedder train --help` lists the options.
"""

import shlex


def train(argv: list[str]) -> None:
    from ..jobs.cards import recall_table
    from ..rag.embedder.training import EmbedderArguments, train_embedder
    from .arguments import command_line, parse

    prog = "folio embedder train"
    (args,) = parse(argv, [EmbedderArguments], prog, __doc__)
    report = train_embedder(args, command=command_line(prog, argv))
    job, option = (["search", "Q"], "--reranker") if args.reranker else (["sync", args.corpus or "PATH"], "--embedder")
    command = ["folio", "rag", *job, "--index", "runs/index", option, report["output_dir"]]
    print(f"\n{recall_table(report)}\n\nTry it: {shlex.join(command)}")


JOBS = {"train": train}
