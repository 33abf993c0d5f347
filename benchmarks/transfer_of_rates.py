"""Whether learning rates that were found at depth 4 are right at other depths, by the rule of `--depth`.

    python -m benchmarks.transfer_of_rates
    python -m benchmarks.transfer_of_rates --json rates.json

Models of each depth are trained on the same text, in batches of the same size. The rates are those of the rule, Muon's
times each of `FACTORS`, AdamW's times each of `FACTORS`, and those of depth 4 as they are. Models are narrow, 16 for
each layer, and text is read as bytes. It takes about ten minutes of one CPU core.
"""

import statistics
import time

import torch
from torch import Tensor

from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.training.arguments import ADAM_LEARNING_RATE
from foliogpt.training.depth import BATCH as BATCH_TOKENS
from foliogpt.training.depth import FOUND_AT, ROWS, WEIGHT_DECAY, settings_of_depth
from foliogpt.training.from_scratch.training_loop import warmup_stable_decay
from foliogpt.training.optimizers import MuonAdamW

from .optimizers import CONTEXT, examples
from .tables import parser, show, write

STEPS, WARMUP, DECAY, BATCH, WIDTH = 120, 5, 72, 8, 16
FACTORS = (0.6, 1.6)
SEEDS = {2: 3, 4: 3, 8: 1, 12: 1}  # of each depth


def rates_of(depth: int) -> tuple[float, float]:
    """The rates of Muon and AdamW by the rule, less what it does for larger batches; models here are narrow."""
    settings = settings_of_depth(depth, CONTEXT)
    batch = settings["gradient_accumulation_steps"] * ROWS * CONTEXT
    return settings["learning_rate"] / (batch / BATCH_TOKENS) ** 0.5, ADAM_LEARNING_RATE


def loss_of(depth: int, rates: tuple[float, float], seed: int, text: Tensor, held_out: Tensor) -> float:
    """The loss on held-out text, in nats a byte, of a model that was trained at these rates."""
    torch.manual_seed(seed)
    heads = {"num_attention_heads": depth, "num_key_value_heads": depth, "max_position_embeddings": CONTEXT}
    shape = {"vocab_size": 256, "hidden_size": WIDTH * depth, "num_hidden_layers": depth, **heads}
    model = FolioForCausalLM(preset_config("folio", "nano", **shape))
    optimizer = MuonAdamW(model, *rates, WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_stable_decay(min(step, STEPS - 1), WARMUP, STEPS, DECAY)
    )
    for rows in torch.randperm(len(text), generator=torch.Generator().manual_seed(seed)).split(BATCH):
        model(text[rows], labels=text[rows]).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    with torch.no_grad():
        return statistics.mean(model(part, labels=part).loss.item() for part in held_out.split(64))


def compare(depth: int, text: Tensor, held_out: Tensor) -> dict:
    """A row of the table: the loss by the rule, by the best rates that were tried, and by those of depth 4."""
    (muon, adam), unchanged = rates_of(depth), rates_of(FOUND_AT)
    others = [pair for factor in FACTORS for pair in ((muon * factor, adam), (muon, adam * factor))]
    start, losses = time.process_time(), {}
    for rates in dict.fromkeys([(muon, adam), unchanged, *others]):
        losses[rates] = statistics.mean(loss_of(depth, rates, seed, text, held_out) for seed in range(SEEDS[depth]))
        print(f"depth {depth:>2}, rates {rates[0]:.4f} {rates[1]:.4f}: loss {losses[rates]:.4f}", flush=True)
    best = min(losses, key=lambda rates: losses[rates])
    row = {"depth": depth, "seeds": SEEDS[depth], "rates by the rule": f"{muon:.4f}, {adam:.4f}"}
    row |= {"loss": f"{losses[muon, adam]:.4f}", "best rates": f"{best[0]:.4f}, {best[1]:.4f}"}
    for name, rates in {"the rule": (muon, adam), "those of depth 4": unchanged}.items():
        row[f"{name}: worse than the best by"] = f"{100 * (losses[rates] / losses[best] - 1):.1f} %"
    return {**row, "CPU seconds": round(time.process_time() - start)}


def main() -> None:
    chosen = parser(__doc__).parse_args()
    torch.set_num_threads(1)  # so small a model gains nothing from more
    text, held_out = examples("train", STEPS * BATCH), examples("validation", 256)
    rows = [compare(depth, text, held_out) for depth in SEEDS]
    show("Transfer of learning rates over depth", rows, f"{STEPS} steps of {BATCH} x {CONTEXT} bytes.")
    write(chosen.json, {"rows": rows})


if __name__ == "__main__":
    main()
