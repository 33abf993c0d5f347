"""Conversion of checkpoints, with proof: the result is written to a temporary folder, loaded as its users load it,
and compared with the source before it is moved to its destination."""

import os
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from ..modeling.modeling_folio import FolioForCausalLM
from .gguf_export import plan_gguf, rounded
from .native import KINDS
from .self_check import relative_difference
from .sources import Source, logits_of, open_checkpoint
from .targets import plan_folder

TARGETS = (*KINDS, "gguf")
# The limit of a difference between logits in float32 is this many times the source's rounding. On 22 inputs of a Llama
# of 30 layers, ours was at most twice as far from stock's as stock's float32 is from its float64.
ROUNDINGS = 10
MIN_LIMIT, MAX_LIMIT = 1e-6, 1e-3  # of that limit, relative to the largest logit
MAX_QUANTIZATION_ERROR = 0.3  # of logits, relative to their variation: 0.08 for SmolLM2-135M, 1.4 for another model's
RANDOM, TOKENS = 2, 128  # sequences of random ids, and tokens in each and of the text
TEXT = """The quality of mercy is not strain'd, it droppeth as the gentle rain from heaven upon the place beneath: it
is twice blest; it blesseth him that gives and him that takes: 'tis mightiest in the mightiest.

    def fold(sheet, times=1):
        return [sheet[i :: 2**times] for i in range(2**times)]  # 1, 2, 4, 8 leaves

In 1623 thirty-six plays came out in folio; 750 copies were printed, and about 235 are left. Größe, café, 東京, 🙂!
"""
NUMBERS = "x =  1\n\n   22\t333  4444 55555 it's 2²"  # tokenizers cut it in different ways


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion, with the largest differences of a logit between the two models, in float32."""

    source: str
    kind: str
    to: str
    destination: Path
    parameters: int
    dtype: str
    random_difference: float
    text_difference: float | None  # None if there is no tokenizer
    rounding: float  # the largest difference between float32 and float64 in the source
    quantization_error: float | None  # distance of the quantized logits from the source's, relative to their variation
    seconds: float


def convert(source: str | Path, destination: str | Path, to: str, quantize: str | None = None) -> Conversion:
    """Write the model in `source` to `destination` as another kind of checkpoint that computes the same.

    `source` is a directory or Hub name, `destination` a directory, or for "gguf" a file, that does not exist yet, and
    `to` one of `TARGETS`. With `quantize` "q8_0", the GGUF file must compute what Folio does with the rounded weights.

    Raises ValueError for a source that is damaged, unknown or has a field that `to` cannot express, and if the results
    differ; OSError without a source, or with a destination; ImportError without gguf. Then nothing is written.
    """
    start = time.perf_counter()
    destination = Path(os.path.normpath(Path(destination).expanduser()))  # "new/.." is the current folder
    if to not in TARGETS:
        raise ValueError(f"There is no target {to!r}: choose one of {', '.join(TARGETS)}.")
    if os.path.lexists(destination):
        raise FileExistsError(f"{destination} is already there: give another name, or remove it first.")
    if quantize and (to, quantize) != ("gguf", "q8_0"):
        raise ValueError(f"--quantize {quantize} is not possible for {to}: only q8_0 is, for gguf.")
    opened = open_checkpoint(str(source))
    if opened.kind == to:
        raise ValueError(f"{source} is a {to} checkpoint already: copy it.")
    plan = plan_gguf(opened, destination, quantize) if to == "gguf" else plan_folder(opened, to)

    batches = sample_ids(opened)
    expected = opened.logits(batches, torch.float32)
    roundings = compare(expected, opened.logits(batches, torch.float64))
    destination.parent.mkdir(parents=True, exist_ok=True)
    staging = {"prefix": ".converting-", "dir": destination.parent, "ignore_cleanup_errors": True}
    with tempfile.TemporaryDirectory(**staging) as folder:
        path, tensors = Path(folder) / destination.name, opened.tensors()
        parameters = sum(tensor.numel() for tensor in tensors.values())
        try:
            plan.write(tensors, path)
        except SafetensorError as error:
            raise OSError(f"Could not write {destination}: {error}") from None
        lost = None
        if quantize:
            folio = {"config": opened.config, "state_dict": rounded(tensors, quantize), "dtype": torch.float32}
            exact, expected = expected, logits_of(partial(FolioForCausalLM.from_pretrained, None, **folio), batches)
            del folio
            lost = max(map(relative_difference, expected, exact))
            if not lost <= MAX_QUANTIZATION_ERROR:
                what = f"{quantize} changes the logits by {lost:.0%} of their variation"
                raise ValueError(f"{what}: convert without --quantize.")
        del tensors
        differences = compare(expected, logits_of(lambda: plan.load(path), batches))
        for difference, rounding, logits in zip(differences, roundings, expected, strict=True):
            largest = logits.abs().max().item()
            limit = min(max(ROUNDINGS * rounding, MIN_LIMIT * largest), MAX_LIMIT * largest)
            if not difference <= limit:  # also for NaN
                what = f"logits differ from the source's by {difference:.2g}, and rounding explains at most {limit:.2g}"
                raise ValueError(f"The {to} model's {what}: please report this checkpoint's config.json.")
        if opened.tokenizer is not None:
            check_tokenizer(opened.tokenizer, plan.load_tokenizer(path))
        os.rename(path, destination)
    dtype, seconds = str(opened.dtype).removeprefix("torch."), time.perf_counter() - start
    apart = max(differences[:RANDOM]), max(differences[RANDOM:], default=None), max(roundings), lost
    return Conversion(str(source), opened.kind, to, destination, parameters, dtype, *apart, seconds)


def sample_ids(source: Source) -> list[torch.Tensor]:
    """Return token ids to compare on, each (1, T): random ones, and those of a text if there is a tokenizer."""
    length = min(TOKENS, source.config.max_position_embeddings)
    vocab_size = source.config.vocab_size
    chance = torch.Generator().manual_seed(0)
    batches = [torch.randint(vocab_size, (1, length), generator=chance) for _ in range(RANDOM)]
    if source.tokenizer is not None:
        ids = source.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
        if max(ids, default=0) >= vocab_size:
            what = f"The tokenizer gives id {max(ids)}, but vocab_size is {vocab_size}"
            raise ValueError(f"{what}: it is another model's tokenizer, so replace it with the right one.")
        if ids:
            batches.append(torch.tensor([ids[:length]]))
    return batches


def compare(expected: list[torch.Tensor], got: list[torch.Tensor]) -> list[float]:
    """Return the largest difference of a logit in each batch."""
    return [(a - b).abs().max().item() for a, b in zip(expected, got, strict=True)]


def check_tokenizer(before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase) -> None:
    """Raise ValueError if a tokenizer gives other ids for some texts, one of them made of its own vocabulary."""
    own = before.decode(list(range(min(len(before), 5000))), skip_special_tokens=True)
    special = [f"{kind}_token_id" for kind in ("bos", "eos", "pad", "unk")]
    same = all(getattr(after, name) == getattr(before, name) for name in special)
    if not same or any(after(text)["input_ids"] != before(text)["input_ids"] for text in (TEXT, NUMBERS, own)):
        what = f"The tokenizer ({type(before).__name__}) becomes a {type(after).__name__} and gives other ids"
        raise ValueError(f"{what}: please report this checkpoint's tokenizer_config.json.")
