"""Training of an embedding model or a reranker from a checkpoint and pairs: the steps of `folio embedder train`."""

import math
import random
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from transformers import PrinterCallback

from ...jobs.cards import embedder_card
from ...jobs.options import check_ranges, option
from ...jobs.report import CARD_FILE, Stages, code_version, hardware_name, peak_memory_bytes, write_report
from ...jobs.run_folder import lock_run_folder, start_run
from ...jobs.saving import staged
from ...jobs.signals import Interrupted, signal_of
from ...modeling import FolioConfig
from ...training.arguments import absolute_if_path
from ...training.callbacks import ProgressBar
from ...training.optimizers import MuonAdamW
from ..embedding import MINILM, Embedder, load_embedder, packaged_minilm
from .encoder import MODULES_FILE, load_encoder
from .pair_ranking import NO_NEGATIVES, Ranker, by_search, by_vectors, by_words, group_by_kind, hard_negatives, recall
from .pairs import Pair, corpus_pairs, hold_out, load_documents, read_pairs

SETTINGS = ("num_train_epochs", "max_steps", "per_device_train_batch_size", "weight_decay", "warmup_steps", "seed")
MINIMA = {"per_device_train_batch_size": 2, "mini_batch_size": 1, "max_length": 2, "warmup_steps": 0, "weight_decay": 0}
NEGATIVES = 3  # that a search finds for a reranker's question; it gets one more from another pair
OUR_LEARNING_RATE, LEARNING_RATE = 0.01, 2e-5  # of Muon on a small GPT; of AdamW on a pretrained encoder


@dataclass
class EmbedderArguments:
    """The model and the data of an embedding model, and the settings of its training."""

    model: str = field(metadata={"help": "a checkpoint, any encoder or causal model, or a sentence-transformers model"})
    output_dir: str = option("runs/embedder", "the directory to write the trained model to")
    reranker: bool = option(False, "train a cross-encoder, for --reranker of folio rag")
    corpus: str | None = option(None, "the documents to train on: a file, a folder, or python-manual")
    pairs: str | None = option(None, "or pairs: rows with anchor and positive, query and text, or question and answer")
    text_column: str = option("text", "the column with the text, if the corpus is CSV, TSV or JSONL")
    max_length: int | None = option(None, "tokens to read of a text, the rest is cut off; the context by default")
    num_train_epochs: float = option(3.0, "number of epochs")
    max_steps: int = option(-1, "number of steps, instead of num_train_epochs")
    per_device_train_batch_size: int | None = option(None, "pairs per step; by default 64, and 16 for a reranker")
    mini_batch_size: int | None = option(None, "texts in memory at once, for large batches; takes a third more time")
    learning_rate: float | None = option(None, "peak learning rate; by default 0.01 for our models, 2e-5 for others")
    warmup_steps: float = option(0.1, "warmup steps, or their share of all steps if below 1")
    weight_decay: float = option(0.01, "weight decay of matrices")
    seed: int = option(42, "random seed")
    overwrite: bool = option(False, "replace the run that is in output_dir")

    def __post_init__(self):
        if self.per_device_train_batch_size is None:
            self.per_device_train_batch_size = 16 if self.reranker else 64
        if (self.corpus is None) == (self.pairs is None):
            raise ValueError("Give --corpus, documents to make pairs of, or --pairs, and not both.")
        check_ranges(self, {name: (n, math.inf) for name, n in MINIMA.items()}, ("num_train_epochs", "learning_rate"))
        model, output_dir = (Path(name).expanduser().resolve() for name in (self.model, self.output_dir))
        if model == output_dir and not (model / MODULES_FILE).is_file():
            raise ValueError(f"{self.output_dir} holds the model that is trained: give another --output_dir.")


def train_embedder(args: EmbedderArguments, command: str = "", stages: Stages | None = None) -> dict:
    """Train an embedding model or a reranker, write it to `args.output_dir` at the end, and return its report.

    Raises ValueError or OSError for its settings and data; Interrupted if a signal stopped it: nothing was written.
    """
    try:
        with lock_run_folder(args.output_dir, args.overwrite) as output_dir:
            return _train_and_save(args, command, stages or Stages(), output_dir)
    except KeyboardInterrupt as error:
        raise Interrupted("Stopped: nothing was written.", signal_of(error)) from None


def _train_and_save(args: EmbedderArguments, command: str, stages: Stages, output_dir: Path) -> dict:
    transformers.set_seed(args.seed)
    with stages("model") as say:
        model = load_encoder(args.model, args.max_length, args.reranker)
        embedder = Embedder(model, args.model)
        say(f"{args.model}, {model.max_seq_length:,} tokens at most")
    with stages("pairs") as say:
        if args.pairs is not None:
            pairs = read_pairs(args.pairs)
        else:
            documents = load_documents(args.corpus, args.text_column)
            pairs = corpus_pairs(documents, embedder.token_starts, embedder.max_tokens, args.seed)
        train, held_out = hold_out(pairs, args.pairs or args.corpus)
        held = group_by_kind(held_out)
        sizes = {kind: (len({p.anchor for p in part}), len({p.positive for p in part})) for kind, part in held.items()}
        counts = [f"{anchors:,} {kind}s of {texts:,} texts" for kind, (anchors, texts) in sizes.items()]
        say(f"{len(train):,} to train on; held out: {', '.join(counts)}")
    minilm = None if packaged_minilm() is None else load_embedder()
    with stages("before") as say:
        # The scores of a new head mean nothing: a reranker is compared with the search whose hits it reads.
        rankers: dict[str, Ranker] = {"before": partial(by_search, minilm, None)}
        if not args.reranker:
            rankers = {"before": partial(by_vectors, embedder), "BM25": by_words}
            if minilm is not None:
                rankers[MINILM.rpartition("/")[2]] = partial(by_vectors, minilm)
        metrics = {name: recall(held, ranker) for name, ranker in rankers.items()}
        say(f"{', '.join(metrics)}, on the held-out pairs")
    with stages("training") as say:
        steps, loss = _train(model, _dataset(train, args, minilm), args, output_dir)
        say(f"{steps:,} steps, loss {loss:.3f}")
    with stages("after") as say:
        model.eval()
        ranker = partial(by_search, minilm, model) if args.reranker else partial(by_vectors, embedder)
        metrics["after"] = recall(held, ranker)
        metric = "recall@1" if args.reranker else "recall@10"  # a reranker reads the first ten
        recalls = {kind: each[metric]["value"] for kind, each in metrics["after"].items()}
        say(f"{metric} " + ", ".join(f"{value:.3f} by {kind}" for kind, value in recalls.items()))
        worse = [kind for kind in recalls if recalls[kind] < metrics["before"][kind][metric]["value"]]
        if args.reranker and worse:
            say(f"by {' and '.join(worse)}, a search without it was better: train on more pairs, for more steps")
    report = {
        "name": output_dir.resolve().name,
        "command": command,
        "output_dir": str(output_dir),
        "base_model": args.model,
        "data": args.pairs or args.corpus,
        "train_pairs": len(train),
        "held_out": {kind: {"anchors": anchors, "texts": texts} for kind, (anchors, texts) in sizes.items()},
        "parameters": sum(p.numel() for p in model.parameters()),
        "dimension": None if args.reranker else model.get_embedding_dimension(),
        "max_length": model.max_seq_length,
        "custom_code": bool(getattr(model[0].auto_model.config, "auto_map", None)),
        "steps": steps,
        "loss": loss,
        "metrics": metrics,
        "seconds": dict(stages.seconds),
        "peak_memory_bytes": peak_memory_bytes(),
        "seed": args.seed,
        "machine": hardware_name(model.device),
        "versions": {"foliogpt": code_version(), "transformers": transformers.__version__, "torch": torch.__version__},
    }
    with stages("reranker" if args.reranker else "embedder") as say:
        settings = {k: v for k, v in asdict(args).items() if k not in ("output_dir", "overwrite")}
        settings |= {name: absolute_if_path(settings[name]) for name in ("model", "corpus", "pairs")}
        with staged(output_dir) as folder:
            model.save(str(folder), create_model_card=False)
            write_report(report, folder)
            (folder / CARD_FILE).write_text(embedder_card(report), encoding="utf-8")
            start_run(output_dir, settings, is_new=True)  # last: the files are complete and only have to be moved
        say(str(output_dir))
    return report


def _dataset(pairs: list[Pair], args: EmbedderArguments, minilm: Embedder | None) -> Dataset:
    """Make the columns that the losses expect, in this order: anchor, positive, negatives."""
    negatives = [[pair.negative] * bool(pairs[0].negative) for pair in pairs]
    if args.reranker:  # only pairs that will be trained on need hard negatives
        seen = args.max_steps * (args.per_device_train_batch_size or 1) if args.max_steps > 0 else len(pairs)
        chosen = random.Random(args.seed).sample(pairs, min(seen, len(pairs)))
        pairs, negatives = zip(*hard_negatives(pairs, chosen, NEGATIVES, args.seed, minilm), strict=True)
    columns = {"anchor": [pair.anchor for pair in pairs], "positive": [pair.positive for pair in pairs]}
    columns |= {f"negative_{n}": list(texts) for n, texts in enumerate(zip(*negatives, strict=True), 1)}
    return Dataset.from_dict(columns)


def _train(model, dataset: Dataset, args: EmbedderArguments, output_dir: Path) -> tuple[int, float]:
    """Train in place, and return the steps and the mean loss of the last tenth of them."""
    from sentence_transformers import cross_encoder, sentence_transformer

    ours = isinstance(getattr(model[0], "auto_model", model[0]).config, FolioConfig)
    rate = args.learning_rate or (OUR_LEARNING_RATE if ours else LEARNING_RATE)
    kind: Any = cross_encoder if args.reranker else sentence_transformer
    prefix = "CrossEncoder" if args.reranker else "SentenceTransformer"

    class Trainer(getattr(kind, f"{prefix}Trainer")):
        def add_model_card_callback(self, default_args_dict):
            """Leave it out: the card is ours."""

    options: dict = {}
    settings = {name: getattr(args, name) for name in SETTINGS}
    if args.reranker:  # each question has negatives of its own, and each text a score without bounds
        options = {"num_negatives": 1, "scale": 1.0, "activation_fn": torch.nn.Identity()}
    elif any(len(set(dataset[column])) == 1 for column in ("anchor", "positive")):
        raise ValueError(NO_NEGATIVES)
    else:
        # Models such as E5 are trained with the prompts that searches put before queries and texts.
        types = {name: "query" if name == "anchor" else "document" for name in dataset.column_names}
        prompts = {name: prompt for name, type_ in types.items() if (prompt := model.prompts.get(type_))}
        settings |= {"batch_sampler": "no_duplicates", "prompts": prompts}
    if args.mini_batch_size is None:
        loss = kind.losses.MultipleNegativesRankingLoss(model, **options)
    else:
        loss = kind.losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=args.mini_batch_size, **options)
    settings |= {"output_dir": str(output_dir), "learning_rate": rate, "save_strategy": "no", "logging_steps": 10}
    settings |= {"use_cpu": not torch.accelerator.is_available(), "dataloader_pin_memory": torch.cuda.is_available()}
    # Without tqdm, as the progress bar is ours.
    settings = getattr(kind, f"{prefix}TrainingArguments")(**settings, report_to=[], disable_tqdm=True)
    with closing(ProgressBar()) as progress:
        optimizers = (MuonAdamW(model, rate, rate, args.weight_decay) if ours else None), None
        options = {"optimizers": optimizers, "loss": loss, "callbacks": [progress]}
        trainer = Trainer(model=model, args=settings, train_dataset=dataset, **options)
        trainer.remove_callback(PrinterCallback)
        trained = trainer.train()
    if not all(torch.isfinite(p).all() for p in model.parameters()):
        raise ValueError(f"The trained weights are NaN or infinite: use a --learning_rate below {rate}.")
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return trained.global_step, losses[-1] if losses else trained.training_loss
