"""The runs of a scaling grid: shapes of one family, and token counts that fit into the time."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import count, product

from ...jobs.options import option
from ...modeling import FolioForCausalLM, preset_config
from ...modeling.presets import PRESETS
from ..config_fields import read_fields, with_config_fields

WIDTHS = (48, 64, 80, 96, 112, 144, 176, 208, 256, 320, 384, 448, 512)
LAYER_EVERY, HEAD_DIM, INNER = 32, 16, 3  # of the width: a layer for 32, heads of 16, three times as wide inside
# The width determines these in every member of the family.
SHAPE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
         "intermediate_size", "layer_types")  # fmt: skip
SIZES, COUNTS = 4, 5  # of the grid
BETWEEN_COUNTS = 2**0.5  # so the fewest tokens are a quarter of the most
LARGER = 2  # times as many tokens in the run that is predicted, of the next width
DECAY = 0.3  # share of a run in which the learning rate falls; all runs of a size share the part before
WARMUP_STEPS = 20
# Of the shortest run. In the first hundreds of steps loss falls faster than by a power of the tokens: a grid whose
# shortest runs had 128 steps gave E = 0 and was 1.6 % off for the larger run, its runs above 300 steps alone 0.4 %.
LEAST_STEPS = 200
BATCH_SIZE = 8
ENOUGH = 20  # tokens a parameter; with time for more, larger models teach more (Hoffmann et al., 2022)
PASSES = 2  # over the text at most: repeated text is worth less than new text, which the law ignores
PART_SECONDS = 1.0  # of a run besides its steps

Measure = Callable[[int], tuple[int, float]]


@with_config_fields(without=SHAPE)
@dataclass
class ScaleArguments:
    """The options of `folio scale`."""

    minutes: float = option(20.0, "minutes for all runs together, without reading the text")
    output_dir: str = option("runs/scale", "folder of results and plots")
    resume: bool = option(False, "continue with the runs that are missing in output_dir")
    overwrite: bool = option(False, "replace the results that are in output_dir")
    tokenizer: str | None = option(None, "directory or Hub name of a tokenizer, or 'char' (default: train one)")
    vocab_size: int = option(1024, "vocabulary size of the new tokenizer")
    preset: str = option("folio", "architecture of the models", choices=list(PRESETS))
    block_size: int = option(128, "tokens in a training example")
    seed: int = option(0, "random seed of weights and data order, the same in all runs")

    def __post_init__(self):
        read_fields(self)
        if not 0 < self.minutes < math.inf:
            raise ValueError(f"minutes is {self.minutes}: give a number above 0.")


@dataclass(frozen=True)
class Run:
    """One training run of the grid, or the larger one."""

    width: int
    steps: int

    @property
    def branch(self) -> int:
        """The step at which the decay begins."""
        return self.steps - round(DECAY * self.steps)


@dataclass
class Plan:
    """The runs, and the measurements behind them."""

    widths: list[int]
    steps: list[int]
    larger: Run
    step_seconds: dict[int, float]  # by width
    evaluation_steps: float  # training steps that take as long as an evaluation

    @property
    def grid(self) -> list[Run]:
        """The runs in the order of their training: all of a size, shortest first."""
        return [Run(width, steps) for width, steps in product(self.widths, self.steps)]

    @property
    def minutes(self) -> float:
        """The time of all runs."""
        return sum(map(self.seconds, [*self.grid, self.larger])) / 60

    def seconds(self, run: Run) -> float:
        """Return the time of a run if those before it in the grid are done."""
        before = self.steps.index(run.steps) if run != self.larger else 0
        trunk = Run(run.width, self.steps[before - 1]).branch if before else 0
        return self.step_seconds[run.width] * (run.steps - trunk + self.evaluation_steps) + PART_SECONDS


def family_member(width: int, vocab_size: int, block_size: int, preset: str = "folio", **fields) -> FolioForCausalLM:
    """Return a model with new weights and these fields of its config; all members have the same proportions."""
    shape = {"hidden_size": width, "intermediate_size": INNER * width}
    shape |= {"num_hidden_layers": math.ceil(width / LAYER_EVERY), "max_position_embeddings": block_size}
    shape |= dict.fromkeys(("num_attention_heads", "num_key_value_heads"), width // HEAD_DIM)
    return FolioForCausalLM(preset_config(preset, vocab_size=vocab_size, **shape, **fields))


def make_plan(minutes: float, text_tokens: int, batch_tokens: int, evaluation_tokens: int, measure: Measure) -> Plan:
    """Plan runs that take about `minutes`, of the smallest sizes that benefit from so many tokens.

    The tokens are those of the training text, of a step and of the held-out text; `measure` returns the parameters and
    the seconds per training step of a width. Raises ValueError if the time or the text is too short.
    """
    evaluation = evaluation_tokens / batch_tokens / 3  # backward takes twice as long as forward
    most = PASSES * text_tokens // batch_tokens
    shares = [BETWEEN_COUNTS**-k for k in reversed(range(COUNTS))]
    least = LEAST_STEPS / shares[0]
    if most < LARGER * least:
        needed = LARGER * least * batch_tokens / PASSES
        raise ValueError(f"{text_tokens:,} tokens are too little text for a grid: give at least {needed:,.0f}.")
    measure = cache(measure)

    def steps_in_time(widths: tuple[int, ...], minutes: float) -> float:
        """Return the steps of the longest run of the grid."""
        *small, large = (measure(width)[1] for width in widths)
        fixed = evaluation * (COUNTS * sum(small) + large) + PART_SECONDS * (COUNTS * SIZES + 1)
        # Per size: the trunk up to the decay of the longest run, and every run's own decay.
        return (60 * minutes - fixed) / (sum(small) * (1 - DECAY + DECAY * sum(shares)) + LARGER * large)

    widths = WIDTHS[: SIZES + 1]
    if steps_in_time(widths, minutes) < least:
        enough = next(more for more in count(math.ceil(minutes)) if steps_in_time(widths, more) >= least)
        raise ValueError(f"{minutes:g} minutes are too few for a grid: give --minutes {enough}.")
    for first in range(1, len(WIDTHS) - SIZES):
        useful = min(most, ENOUGH * measure(widths[-1])[0] / batch_tokens)
        next_widths = WIDTHS[first : first + SIZES + 1]
        if LARGER * steps_in_time(widths, minutes) <= useful or steps_in_time(next_widths, minutes) < least:
            break
        widths = next_widths
    counts = [round(share * min(steps_in_time(widths, minutes), most / LARGER)) for share in shares]
    seconds = {width: measure(width)[1] for width in widths}
    return Plan(list(widths[:-1]), counts, Run(widths[-1], LARGER * counts[-1]), seconds, evaluation)
