"""Outputs of a model for many inputs, in batches of similar lengths whose padding changes nothing."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoints.loading import context_length

MAX_WINDOW = 2048  # tokens of a window, however many a model could read
MAX_LOGITS = 1 << 27  # numbers in memory: half a gigabyte in float32
Inputs = Sequence[Sequence[int]]  # token ids


@dataclass(frozen=True)
class Subject:
    """The model that is evaluated, and its inputs: `batch_size` changes no metric, `max_length` is in tokens."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch_size: int = 8
    max_length: int | None = None
    progress: str = ""  # the name before a progress bar; none is shown without a name

    def input_length(self, most: int | None = MAX_WINDOW) -> int:
        """Return the tokens of an input: `max_length`, or the model's context and at most `most`; raises ValueError.

        `most` is None for inputs that are not read in windows, such as texts to classify.
        """
        room = context_length(self.model) or most or sys.maxsize
        if self.max_length is None:
            return min(room, most or room)
        if not 2 <= self.max_length <= room:
            raise ValueError(f"--max_length is {self.max_length}: give 2 to {room}, the tokens that the model reads.")
        return self.max_length


def windows(length: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Cut `length` tokens into windows of at most `size`: (start, end, the first one that counts).

    Every token but the first counts once, with at least half a window before it if the text has as much.
    """
    counted = 1
    for start in range(0, max(1, length), max(1, size // 2)):
        end = min(start + size, length)
        yield start, end, counted - start
        counted = end
        if end == length:
            return


@torch.no_grad()
def token_nats(model: PreTrainedModel, inputs: Inputs, batch_size: int, progress: str = "") -> list[np.ndarray]:
    """Compute the nats of each token but the first, (T - 1,) an input; raises ValueError for NaN."""
    out: list[np.ndarray] = [np.zeros(0)] * len(inputs)
    width = max(map(len, inputs), default=0)
    batch_size = max(1, min(batch_size, MAX_LOGITS // max(1, width * model.config.get_text_config().vocab_size)))
    for indices, batch in _batches(model, inputs, batch_size, progress):
        logits = model(**batch, use_cache=False).logits[:, -batch["input_ids"].shape[1] :]
        for row, index in enumerate(indices):
            length = len(inputs[index])
            targets = batch["input_ids"][row, 1:length]
            nats = nn.functional.cross_entropy(logits[row, : max(0, length - 1)].float(), targets, reduction="none")
            out[index] = _finite(nats.double().cpu().numpy(), index)
    return out


@torch.no_grad()
def head_logits(model: PreTrainedModel, inputs: Inputs, batch_size: int, progress: str = "") -> list[np.ndarray]:
    """Compute a head's logits: (labels,) of a text, (T, labels) of tokens, (2, T) of spans; ValueError for NaN."""
    out: list[np.ndarray] = [np.zeros(0)] * len(inputs)
    if model.config.get_text_config().pad_token_id is None:
        batch_size = 1  # transformers' classifiers could not tell where a text ends
    for indices, batch in _batches(model, inputs, batch_size, progress):
        outputs, width = model(**batch), batch["input_ids"].shape[1]  # an adapter's virtual tokens come before these
        logits = outputs.logits if "logits" in outputs else torch.stack([outputs.start_logits, outputs.end_logits], 1)
        for row, index in enumerate(indices):
            one, length = logits[row].double().cpu().numpy(), len(inputs[index])
            if "logits" not in outputs:
                one = one[:, -width:][:, :length]
            elif one.ndim == 2:
                one = one[-width:][:length]
            out[index] = _finite(one, index)
    return out


def in_windows(read: Callable, subject: Subject, inputs: Inputs, size: int) -> list[np.ndarray]:
    """Compute by `read` (`token_nats`, `head_logits`) the outputs for inputs that may have more than `size` tokens."""
    pieces = [(index, *window) for index, ids in enumerate(inputs) for window in windows(len(ids), size)]
    cut = [inputs[index][begin:end] for index, begin, end, _ in pieces]
    parts: list[list[np.ndarray]] = [[] for _ in inputs]
    outputs = read(subject.model, cut, subject.batch_size, subject.progress)
    for (index, begin, end, counted), output in zip(pieces, outputs, strict=True):
        known = len(output) - (end - begin - counted)  # outputs: the window before has seen more of these tokens
        parts[index].append(output[known:] if begin else output)
    return [np.concatenate(each) for each in parts]


@torch.no_grad()
def continuations(
    model: PreTrainedModel, prompts: Inputs, config: GenerationConfig, batch_size: int, progress: str = "", seed=0
) -> list[list[int]]:
    """Generate a continuation of each prompt, without the token that ends it.

    Greedy decoding is done in batches. Samples are drawn one by one, each with a seed of its own, so neither depends
    on the batch size.
    """
    out: list[list[int]] = [[]] * len(prompts)
    ends = set(config.eos_token_id) if isinstance(config.eos_token_id, list) else {config.eos_token_id}
    for indices, batch in _batches(model, prompts, 1 if config.do_sample else batch_size, progress, side="left"):
        with torch.random.fork_rng(enabled=bool(config.do_sample)):
            if config.do_sample:
                torch.manual_seed(seed + indices[0])
            new = model.generate(**batch, generation_config=config)[:, batch["input_ids"].shape[1] :].tolist()
        for index, ids in zip(indices, new, strict=True):
            stop = next((place for place, token in enumerate(ids) if token in ends), len(ids))
            out[index] = ids[:stop]
    return out


def _batches(
    model: PreTrainedModel, inputs: Inputs, batch_size: int, progress: str, side: str = "right"
) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    """Yield batches from the longest inputs, whose memory is the most, to the shortest, and their inputs' indices."""
    was_training = model.training
    model.eval()
    pad = model.config.get_text_config().pad_token_id or 0
    order = sorted(range(len(inputs)), key=lambda index: -len(inputs[index]))
    interval = 0.5 if sys.stderr.isatty() else 30  # seconds: seldom in a log file
    looks = {"desc": progress, "disable": not progress, "mininterval": interval, "dynamic_ncols": True, "delay": 2}
    for start in tqdm(range(0, len(order), batch_size), unit="batch", **looks):
        indices = order[start : start + batch_size]
        rows = [torch.tensor(list(inputs[index]), dtype=torch.long) for index in indices]
        input_ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad, padding_side=side)
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)
        yield indices, {"input_ids": input_ids.to(model.device), "attention_mask": mask.to(model.device)}
    model.train(was_training)


def _finite(values: np.ndarray, index: int) -> np.ndarray:
    if not np.isfinite(values).all():
        remedy = "its weights are broken, or its precision is too low"
        raise ValueError(f"The model's outputs for input {index + 1} are NaN or infinite: {remedy}.")
    return values
