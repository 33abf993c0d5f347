"""From a checkpoint and pairs to an embedder or a reranker of one's own: the steps behind `folio embedder train`."""

import math
import random
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from transformers import PrinterCallback

from ...jobs.cards import embedder_card
from ...jobs.options import option
from ...jobs.report import CARD_FILE, Stages, code_version, machine, peak_memory_bytes, write_report
from ...jobs.run_folder import lock_run_folder, start_run
from ...jobs.saving import staged
from ...jobs.signals import Interrupted, signal_of
from ...modeling import FolioConfig
from ...training.arguments import from_anywhere
from ...training.callbacks import ProgressBar
from ...training.optimizers import MuonAdamW
from ..embedding import MINILM, Embedder, load_embedder, packaged_minilm
from .encoder import MODULES_FILE, load_encoder
from .pair_ranking import (
    NOTHING_TO_TELL_APART,
    Held,
    by_search,
    by_vectors,
    by_words,
    held_by_kind,
    with_hard_negatives,
)
from .pairs import Pair, corpus_pairs, hold_out, load_documents, read_pairs

MINILM_NAME = MINILM.rpartition("/")[2]
LOGGING_STEPS = 10
SETTINGS = ("num_train_epochs", "max_steps", "per_device_train_batch_size", "weight_decay", "warmup_steps", "seed")
LEAST = {"per_device_train_batch_size": 2, "mini_batch_size": 1, "max_length": 2, "warmup_steps": 0, "weight_decay": 0}
NEGATIVES = 3  # texts that a reranker learns to put behind the right one, and one more of another pair
OUR_LEARNING_RATE, LEARNING_RATE = 0.01, 2e-5  # of Muon on a small GPT; of AdamW on a pretrained encoder


@dataclass
class EmbedderArguments:
    """What an embedder is made of, and how it is trained."""

    model: str = field(metadata={"help": "a checkpoint, any encoder or causal model, or a sentence-transformers model"})
    output_dir: str = option("runs/embedder", "where the result is written")
    reranker: bool = option(False, "train a cross-encoder, for --reranker of folio rag")
    corpus: str | None = option(None, "the documents to learn to find: a file, a folder, or python-manual")
    pairs: str | None = option(None, "or pairs: rows with anchor and positive, query and text, or question and answer")
    text_column: str = option("text", "the column with the text, of a corpus in CSV, TSV and JSONL")
    max_length: int | None = option(None, "tokens of a text, of which longer ones lose the end; the context by default")
    num_train_epochs: float = option(3.0, "how often each pair is seen")
    max_steps: int = option(-1, "steps in all, instead of num_train_epochs")
    per_device_train_batch_size: int | None = option(None, "pairs in a step; by default 64, and 16 for a reranker")
    mini_batch_size: int | None = option(None, "texts in memory at once, for large batches; takes a third more time")
    learning_rate: float | None = option(
        None, "peak; by default 0.01 for models of ours (Muon), 2e-5 for others (AdamW)"
    )
    warmup_steps: float = option(0.1, "steps, or their share if below 1")
    weight_decay: float = option(0.01, "weight decay of matrices")
    seed: int = option(42, "random seed")
    overwrite: bool = option(False, "replace the run that is in output_dir")

    def __post_init__(self):
        if self.per_device_train_batch_size is None:
            self.per_device_train_batch_size = 16 if self.reranker else 64
        if (self.corpus is None) == (self.pairs is None):
            raise ValueError("Give --corpus, documents to make pairs of, or --pairs, and not both.")
        for name, least in LEAST.items():
            if (value := getattr(self, name)) is not None and not least <= value < math.inf:
                raise ValueError(f"{name} is {value}: give at least {least}.")
        for name in ("num_train_epochs", "learning_rate"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}: give a number above 0.")
        if self.max_steps < 1 and self.max_steps != -1:
            raise ValueError(f"max_steps is {self.max_steps}: give at least 1, or leave it out.")
        model, output_dir = (Path(name).expanduser().resolve() for name in (self.model, self.output_dir))
        if model == output_dir and not (model / MODULES_FILE).is_file():
            raise ValueError(f"{self.output_dir} holds the model itself, which writes text: give another --output_dir.")


def train_embedder(args: EmbedderArguments, command: str = "", stages: Stages | None = None) -> dict:
    """Train an embedder or a reranker, write it to `args.output_dir` when it is whole, and return its report.

    Raises ValueError, OSError for settings and input that do not work; ImportError without sentence-transformers;
    Interrupted if a signal stopped it: then nothing was written.
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
        held = held_by_kind(held_out)
        counts = [f"{len(each.wanted):,} {kind}s of {len(each.texts):,} texts" for kind, each in held.items()]
        say(f"{len(train):,} to learn from; held out: {', '.join(counts)}")
    minilm = None if packaged_minilm() is None else load_embedder()
    with stages("before") as say:
        # A new head's scores say nothing, so a reranker is compared with the search that it is given to.
        before = partial(by_search, minilm, None) if args.reranker else partial(by_vectors, embedder)
        figures = {"before": _figures(held, before)}
        if not args.reranker:
            figures["BM25"] = _figures(held, by_words)
            if minilm is not None:
                figures[MINILM_NAME] = _figures(held, partial(by_vectors, minilm))
        say(f"{', '.join(figures)}, on the pairs that are held out")
    with stages("training") as say:
        steps, loss = _train(model, train, args, output_dir, minilm)
        say(f"{steps:,} steps, loss {loss:.3f}")
    with stages("after") as say:
        trained = (by_search, minilm, model.eval()) if args.reranker else (by_vectors, Embedder(model, args.model))
        figures["after"] = _figures(held, partial(*trained))
        measure = "recall@1" if args.reranker else "recall@10"  # a reranker is given the first ten
        recalls = {kind: each[measure]["value"] for kind, each in figures["after"].items()}
        say(f"{measure} " + ", ".join(f"{value:.3f} by {kind}" for kind, value in recalls.items()))
        worse = [kind for kind in recalls if recalls[kind] < figures["before"][kind][measure]["value"]]
        if args.reranker and worse:
            say(f"by {' and '.join(worse)}, a search without it was better: train on more pairs, for more steps")
    report = {
        "name": output_dir.resolve().name,
        "command": command,
        "output_dir": str(output_dir),
        "base_model": args.model,
        "data": args.pairs or args.corpus,
        "train_pairs": len(train),
        "held_out": {kind: {"anchors": len(h.wanted), "texts": len(h.texts)} for kind, h in held.items()},
        "parameters": sum(p.numel() for p in model.parameters()),
        "dimension": None if args.reranker else model.get_embedding_dimension(),
        "max_length": model.max_seq_length,
        "custom_code": bool(getattr(model[0].auto_model.config, "auto_map", None)),
        "steps": steps,
        "loss": loss,
        "metrics": figures,
        "seconds": dict(stages.seconds),
        "peak_memory_bytes": peak_memory_bytes(),
        "seed": args.seed,
        "machine": machine(model.device),
        "versions": {"foliogpt": code_version(), "transformers": transformers.__version__, "torch": torch.__version__},
    }
    with stages("reranker" if args.reranker else "embedder") as say:
        settings = {k: v for k, v in asdict(args).items() if k not in ("output_dir", "overwrite")}
        settings |= {name: from_anywhere(settings[name]) for name in ("model", "corpus", "pairs")}
        with staged(output_dir) as folder:
            model.save(str(folder), create_model_card=False)
            write_report(report, folder)
            (folder / CARD_FILE).write_text(embedder_card(report), encoding="utf-8")
            start_run(output_dir, settings, is_new=True)  # now that all is written and has only to move
        say(str(output_dir))
    return report


def _figures(held: dict[str, Held], ranker) -> dict[str, dict]:
    return {kind: each.figures(ranker) for kind, each in held.items()}


def _dataset(pairs: list[Pair], args: EmbedderArguments, minilm: Embedder | None) -> Dataset:
    """The texts of each step in the order that the losses take them: question, right text, wrong ones."""
    negatives = [[pair.negative] * bool(pairs[0].negative) for pair in pairs]
    if args.reranker:  # wrong texts are looked for only of pairs that are seen
        seen = args.max_steps * (args.per_device_train_batch_size or 1) if args.max_steps > 0 else len(pairs)
        chosen = random.Random(args.seed).sample(pairs, min(seen, len(pairs)))
        pairs, negatives = zip(*with_hard_negatives(pairs, chosen, NEGATIVES, args.seed, minilm), strict=True)
    columns = {"anchor": [pair.anchor for pair in pairs], "positive": [pair.positive for pair in pairs]}
    columns |= {f"negative_{n}": list(texts) for n, texts in enumerate(zip(*negatives, strict=True), 1)}
    return Dataset.from_dict(columns)


def _train(
    model, pairs: list[Pair], args: EmbedderArguments, output_dir: Path, minilm: Embedder | None
) -> tuple[int, float]:
    """Train in place, and return the steps and the mean loss of the last tenth of them."""
    from sentence_transformers import cross_encoder, sentence_transformer

    ours = isinstance(getattr(model[0], "auto_model", model[0]).config, FolioConfig)
    rate = args.learning_rate or (OUR_LEARNING_RATE if ours else LEARNING_RATE)
    kind: Any = cross_encoder if args.reranker else sentence_transformer
    prefix = "CrossEncoder" if args.reranker else "SentenceTransformer"

    class Trainer(getattr(kind, f"{prefix}Trainer")):
        def add_model_card_callback(self, default_args_dict):
            """The card is ours."""

        def create_optimizer(self, model=None):
            if self.optimizer is None and ours:
                self.optimizer = MuonAdamW(self.model, lr=rate, adam_lr=rate, weight_decay=args.weight_decay)
            return super().create_optimizer(model)

    dataset = _dataset(pairs, args, minilm)
    if not args.reranker and any(len(set(dataset[column])) == 1 for column in ("anchor", "positive")):
        raise ValueError(NOTHING_TO_TELL_APART)
    # A cross-encoder has wrong texts of its own for each question, and gives each a score without bounds.
    options: dict = {"num_negatives": 1, "scale": 1.0, "activation_fn": torch.nn.Identity()} if args.reranker else {}
    only_embedder: dict = {}
    if not args.reranker:
        # What the model puts before a question and before a text: E5 learns with what it is asked with.
        kinds = {name: "query" if name == "anchor" else "document" for name in dataset.column_names}
        prompts = {name: prompt for name, kind in kinds.items() if (prompt := model.prompts.get(kind))}
        only_embedder = {"batch_sampler": "no_duplicates", "prompts": prompts}
    if args.mini_batch_size is None:
        loss = kind.losses.MultipleNegativesRankingLoss(model, **options)
    else:
        loss = kind.losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=args.mini_batch_size, **options)
    settings = getattr(kind, f"{prefix}TrainingArguments")(
        output_dir=str(output_dir),
        learning_rate=rate,
        **{name: getattr(args, name) for name in SETTINGS},
        **only_embedder,
        save_strategy="no",
        logging_steps=LOGGING_STEPS,
        report_to=[],
        disable_tqdm=True,  # our own progress bar is there
        use_cpu=not torch.accelerator.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    progress = ProgressBar()
    trainer = Trainer(model=model, args=settings, train_dataset=dataset, loss=loss, callbacks=[progress])
    trainer.remove_callback(PrinterCallback)
    try:
        trained = trainer.train()
    finally:
        progress.close()
    if not all(torch.isfinite(p).all() for p in model.parameters()):
        raise ValueError(f"The weights are no numbers any more: use a --learning_rate below {rate}.")
    losses_seen = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return trained.global_step, losses_seen[-1] if losses_seen else trained.training_loss
