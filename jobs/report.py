"""What a run leaves for people: a line for each stage, report.json, a picture of the loss, a model card."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from .plotting import pyplot

REPORT_FILE, CARD_FILE, CURVE_FILE = "report.json", "README.md", "loss.png"


class Stages:
    """Times the stages of a run and says one line about each.

    >>> stages = Stages()
    >>> with stages("corpus") as say:
    ...     say("8,000 documents")
    """

    def __init__(self, silent: bool = False):
        self.seconds: dict[str, float] = {}
        self.silent = silent

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator:
        """Run a stage. What the block passes to the yielded function is shown when it ends."""
        said = []
        start = time.perf_counter()
        yield said.append
        self.seconds[name] = round(time.perf_counter() - start, 2)
        if not self.silent:
            print(f"{name:<12}{'; '.join(said)}  ({self.seconds[name]:.1f} s)", flush=True)


def amount(number: int | None) -> str:
    """A number for people, or that nobody knows it: the length of a stream."""
    return "an unknown number of" if number is None else f"{number:,}"


def peak_memory_bytes() -> int:
    """The most memory that this process has held at once."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def write_report(report: dict, directory: str | Path) -> None:
    """Write report.json."""
    (Path(directory) / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def loss_curve(log_history: list[dict], path: Path, title: str) -> None:
    """Draw training and validation loss over the steps, and below the gradient's norm and the learning rate.

    Raises:
        ImportError: if matplotlib is missing; names the extra that has it.
    """
    plt = pyplot("The loss curve")
    figure, (losses, norms, rates) = plt.subplots(
        3, 1, sharex=True, figsize=(7, 5.5), height_ratios=[3, 1, 1], layout="constrained"
    )
    for key, label, style in (("loss", "training", "-"), ("eval_loss", "validation", "o--")):
        points = [(entry["step"], entry[key]) for entry in log_history if key in entry]
        if points:
            losses.plot(*zip(*points, strict=True), style, label=label)
    for axes, key in ((norms, "grad_norm"), (rates, "learning_rate")):
        points = [(entry["step"], entry[key]) for entry in log_history if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), color="gray")
        axes.grid(alpha=0.3)
    losses.set(ylabel="loss (nats a token)", title=title)
    losses.legend()
    losses.grid(alpha=0.3)
    norms.set(ylabel="gradient\nnorm")
    rates.set(xlabel="step", ylabel="learning\nrate")
    figure.align_ylabels()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def model_card(report: dict) -> str:
    """The README.md of a checkpoint: what it is, how good, how to use it, and the command that made it."""
    baselines = report["baseline_bits_per_byte"]
    compared = "".join(f"| {name}, given the training text | {bits:.3f} |\n" for name, bits in baselines.items())
    minutes = sum(report["seconds"].values()) / 60
    speed = report["tokens_per_second"]
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags:
- foliogpt
- custom_code
model-index:
- name: {json.dumps(report["name"])}
  results:
  - task:
      type: text-generation
    dataset:
      name: {json.dumps(report["corpus"])}
      type: text
      split: validation
    metrics:
    - type: perplexity
      value: {report["val_perplexity"]:.4f}
    - type: bits_per_byte
      value: {report["val_bits_per_byte"]:.4f}
---

# {report["name"]}

A GPT of {report["parameters"]:,} parameters (preset `{report["preset"]}`, size `{report["size"]}`), trained from
scratch with FolioGPT on `{report["corpus"]}`: {amount(report["train_documents"])} documents,
{amount(report["train_bytes"])} bytes, {report["steps"]:,} steps, {report["tokens"]:,} tokens in {report["precision"]}.

## How good it is

On {report["val_documents"]:,} held-out documents ({report["val_bytes"]:,} bytes):

| | bits per byte |
|---|---|
| this model | **{report["val_bits_per_byte"]:.3f}** |
{compared}
Loss {report["val_loss"]:.3f} nats a token, perplexity {report["val_perplexity"]:.1f}. The run took
{minutes:.1f} minutes on {report["machine"]}, training at {amount(speed and round(speed))} tokens a second.

It is a small model: it has the form of its training text and little of the knowledge. Do not rely on what it says.

## Use

```python
from transformers import pipeline

generator = pipeline("text-generation", {json.dumps(report["output_dir"])}, trust_remote_code=True)
print(generator({json.dumps(report["prompt"])}, max_new_tokens=60)[0]["generated_text"])
```

`trust_remote_code=True` runs the Python files beside the weights; with `foliogpt` installed and
`import foliogpt.modeling` it is not needed.

## Made by

```
{report["command"]}
```

transformers {report["versions"]["transformers"]}, torch {report["versions"]["torch"]}, seed {report["seed"]}.
The curve is in `{CURVE_FILE}`, every figure in `{REPORT_FILE}`.
"""
