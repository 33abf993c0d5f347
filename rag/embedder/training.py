"""From a checkpoint and pairs to an embedder of one's own: the steps behind `folio embedder train`."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import transformers
from datasets import Dataset
from transformers import PrinterCallback

from ...jobs.cards import embedder_card
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
from .pair_ranking import Held, by_vectors, by_words, held_by_kind
from .pairs import Pair, corpus_pairs, hold_out, load_documents, read_pairs

MINILM_NAME = MINILM.rpartition("/")[2]
LOGGING_STEPS = 10
OUR_LEARNING_RATE, LEARNING_RATE = 0.01, 2e-5  # of Muon on a small GPT; of AdamW on a pretrained encoder


@dataclass
class EmbedderArguments:
    """What an embedder is made of, and how it is trained."""

    model: str = field(
        metadata={"help": "a checkpoint, ours or any encoder or causal model, or a sentence-transformers model"}
    )
    output_dir: str = field(default="runs/embedder", metadata={"help": "where the embedder is written"})
    corpus: str | None = field(
        default=None, metadata={"help": "the documents to learn to find: a file, a folder, or python-manual"}
    )
    pairs: str | None = field(
        default=None,
        metadata={"help": "or pairs: rows with anchor and positive, query and text, or question and answer"},
    )
    text_column: str = field(
        default="text", metadata={"help": "the column with the text, of a corpus in CSV, TSV and JSONL"}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "tokens of a text, of which longer ones lose the end; the context by default"}
    )
    num_train_epochs: float = field(default=3.0, metadata={"help": "how often each pair is seen"})
    max_steps: int = field(default=-1, metadata={"help": "steps in all, instead of num_train_epochs"})
    per_device_train_batch_size: int = field(
        default=64, metadata={"help": "pairs in a step, whose texts are each other's wrong answers"}
    )
    mini_batch_size: int | None = field(
        default=None,
        metadata={"help": "texts in memory at once, for batches that do not fit; costs a third more time"},
    )
    learning_rate: float | None = field(
        default=None,
        metadata={"help": "peak; by default 0.01 for a model of ours (Muon and AdamW), 2e-5 for others (AdamW)"},
    )
    warmup_steps: float = field(default=0.1, metadata={"help": "steps, or their share if below 1"})
    weight_decay: float = field(default=0.01, metadata={"help": "of matrices"})
    seed: int = field(default=42, metadata={"help": "of all that is drawn"})
    overwrite: bool = field(default=False, metadata={"help": "replace the run that is in output_dir"})

    def __post_init__(self):
        if (self.corpus is None) == (self.pairs is None):
            raise ValueError("Give --corpus, documents to make pairs of, or --pairs, and not both.")
        for name, least in (("per_device_train_batch_size", 2), ("mini_batch_size", 1), ("max_length", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}: give at least {least}.")
        for name in ("num_train_epochs", "learning_rate"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}: give a number above 0.")
        for name in ("warmup_steps", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 0.")
        if self.max_steps < 1 and self.max_steps != -1:
            raise ValueError(f"max_steps is {self.max_steps}: give at least 1, or leave it out.")
        model, output_dir = (Path(name).expanduser().resolve() for name in (self.model, self.output_dir))
        if model == output_dir and not (model / MODULES_FILE).is_file():
            raise ValueError(f"{self.output_dir} holds the model itself, which writes text: give another --output_dir.")


def train_embedder(args: EmbedderArguments, command: str = "", stages: Stages | None = None) -> dict:
    """Train an embedder and write it to `args.output_dir`, as a sentence-transformers model, when all of it is there.

    Args:
        command: what the model card says it was made by.
        stages: collects times and says a line for each stage.

    Returns:
        The report, as written to report.json.

    Raises:
        ValueError, OSError: for settings and input that do not work; the message says what to do.
        ImportError: sentence-transformers is missing; names the extra that has it.
        Interrupted: a signal stopped it. Nothing was written.
    """
    stages = stages or Stages()
    with lock_run_folder(args.output_dir, args.overwrite) as output_dir, _stopped_in_one_line():
        transformers.set_seed(args.seed)
        with stages("model") as say:
            model = load_encoder(args.model, args.max_length)
            embedder = Embedder(model, args.model)
            say(f"{args.model}, {model.max_seq_length:,} tokens at most, vectors of {_dimension(model)}")
        with stages("pairs") as say:
            train, held_out = hold_out(_pairs(args, embedder), args.pairs or args.corpus)
            held = held_by_kind(held_out)
            say(f"{len(train):,} to learn from; held out: {_counts(held)}")
        with stages("before") as say:
            figures = {"before": _figures(held, by_vectors(embedder)), "BM25": _figures(held, by_words)}
            if packaged_minilm() is not None:
                figures[MINILM_NAME] = _figures(held, by_vectors(load_embedder()))
            say(f"and {', '.join(name for name in figures if name != 'before')}, on the pairs that are held out")
        with stages("training") as say:
            steps, loss = _train(model, train, args, output_dir)
            say(f"{steps:,} steps, loss {loss:.3f}")
        with stages("after") as say:
            figures["after"] = _figures(held, by_vectors(Embedder(model, args.model)))
            recalls = {kind: each["recall@10"]["value"] for kind, each in figures["after"].items()}
            say("recall@10 " + ", ".join(f"{value:.3f} by {kind}" for kind, value in recalls.items()))
        report = {
            "name": output_dir.resolve().name,
            "command": command,
            "output_dir": str(output_dir),
            "base_model": args.model,
            "data": args.pairs or args.corpus,
            "train_pairs": len(train),
            "held_out": {kind: {"anchors": len(h.anchors), "texts": len(h.texts)} for kind, h in held.items()},
            "parameters": sum(p.numel() for p in model.parameters()),
            "dimension": _dimension(model),
            "max_length": model.max_seq_length,
            "custom_code": bool(getattr(model[0].auto_model.config, "auto_map", None)),
            "steps": steps,
            "loss": loss,
            "metrics": figures,
            "seconds": dict(stages.seconds),
            "peak_memory_bytes": peak_memory_bytes(),
            "seed": args.seed,
            "machine": machine(model.device),
            "versions": {
                "foliogpt": code_version(),
                "transformers": transformers.__version__,
                "torch": torch.__version__,
            },
        }
        with stages("embedder") as say:
            _save(output_dir, model, args, report)
            say(str(output_dir))
    return report


def _pairs(args: EmbedderArguments, embedder: Embedder) -> list[Pair]:
    if args.pairs is not None:
        return read_pairs(args.pairs)
    documents = load_documents(args.corpus, args.text_column)
    return corpus_pairs(documents, embedder.token_starts, embedder.max_tokens, seed=args.seed)


def _figures(held: dict[str, Held], ranker) -> dict[str, dict]:
    return {kind: each.figures(ranker) for kind, each in held.items()}


def _counts(held: dict[str, Held]) -> str:
    return ", ".join(f"{len(each.anchors):,} {kind}s of {len(each.texts):,} texts" for kind, each in held.items())


def _dimension(model) -> int:
    return model.get_embedding_dimension()


def _train(model, pairs: list[Pair], args: EmbedderArguments, output_dir: Path) -> tuple[int, float]:
    """Train in place, and return the steps and the mean loss of the last tenth of them."""
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer import losses

    from .batches import LengthBuckets

    ours = isinstance(getattr(model[0], "auto_model", model[0]).config, FolioConfig)
    rate = args.learning_rate or (OUR_LEARNING_RATE if ours else LEARNING_RATE)

    class Trainer(SentenceTransformerTrainer):
        def add_model_card_callback(self, default_args_dict):
            """The card is ours."""

        def create_optimizer(self, model=None):
            if self.optimizer is None and ours:
                self.optimizer = MuonAdamW(self.model, lr=rate, adam_lr=rate, weight_decay=args.weight_decay)
            return super().create_optimizer(model)

    columns = {"anchor": [pair.anchor for pair in pairs], "positive": [pair.positive for pair in pairs]}
    if pairs[0].negative:
        columns["negative"] = [pair.negative for pair in pairs]
    dataset = Dataset.from_dict(columns)
    if not len(LengthBuckets(dataset, args.per_device_train_batch_size)):
        raise ValueError(
            "No two of the pairs to learn from can stand beside each other, since their questions or texts are the "
            "same: give pairs with different ones."
        )
    if args.mini_batch_size is None:
        loss = losses.MultipleNegativesRankingLoss(model)
    else:
        loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=args.mini_batch_size)
    settings = SentenceTransformerTrainingArguments(
        output_dir=str(output_dir),
        num_train_epochs=args.num_train_epochs,
        max_steps=args.max_steps,
        per_device_train_batch_size=args.per_device_train_batch_size,
        learning_rate=rate,
        weight_decay=args.weight_decay,
        warmup_steps=args.warmup_steps,
        seed=args.seed,
        batch_sampler=LengthBuckets,
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


@contextlib.contextmanager
def _stopped_in_one_line() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted("Stopped: nothing was written.", signal_of(error)) from None


def _save(output_dir: Path, model, args: EmbedderArguments, report: dict) -> None:
    """Write all that travels: weights, config, code, tokenizer, pooling, and the model card."""
    settings = {k: v for k, v in asdict(args).items() if k not in ("output_dir", "overwrite")}
    for name in ("model", "corpus", "pairs"):
        settings[name] = from_anywhere(settings[name])
    with staged(output_dir) as folder:
        model.save(str(folder), create_model_card=False)
        write_report(report, folder)
        (folder / CARD_FILE).write_text(embedder_card(report), encoding="utf-8")
        start_run(output_dir, settings, is_new=True)  # now that all is written and has only to move
