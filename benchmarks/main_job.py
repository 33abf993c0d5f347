"""The main job: start-up, what each precision buys, the quickstart against compressors, bits per byte against minutes.

    python -m benchmarks.main_job
    python -m benchmarks.main_job --only startup precision --json main_job.json

Run it with nothing else going on: with more threads than free cores, torch slows down 10 to 30 times.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .tables import parser, show, write

STARTS = {
    "folio --help": "from foliogpt.scripts.cli import main; main(['--help'])",
    "from transformers import LlamaForCausalLM": "from transformers import LlamaForCausalLM",
    "import foliogpt.modeling": "import foliogpt.modeling",
}


def startup(rounds: int = 7) -> list[dict]:
    """Seconds that a fresh interpreter takes, in turn, the first round not counted."""
    times: dict[str, list[float]] = {name: [] for name in STARTS}
    for _ in range(rounds + 1):
        for name, code in STARTS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
            times[name].append(time.perf_counter() - start)
    rows = []
    for name, seconds in times.items():
        low, *_, high = sorted(seconds[1:])
        rows.append({"what": f"`{name}`", "median s": statistics.median(seconds[1:]), "fastest": low, "slowest": high})
    return rows


def precision(steps: int = 8) -> list[dict]:
    """Training tokens a second in float32 and bfloat16, eager and compiled, at two sizes; median of `steps`."""
    import torch

    from foliogpt.modeling import FolioForCausalLM, preset_config
    from foliogpt.training.optimizers import MuonAdamW

    rows = []
    for size in ("nano", "micro"):
        base = None
        for compiled in (False, True):
            for bf16 in (False, True):
                torch.manual_seed(0)
                model = FolioForCausalLM(preset_config("folio", size)).train()
                model.loss_chunk_size = 512
                if compiled:
                    model.model.compile()
                optimizer = MuonAdamW(model)
                ids = torch.randint(0, 4096, (16, 256))
                times = []
                for _ in range(steps + 2):
                    start = time.perf_counter()
                    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                        loss = model(ids, labels=ids, use_cache=False).loss
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    times.append(time.perf_counter() - start)
                speed = ids.numel() / statistics.median(times[2:])
                base = base or speed
                rows.append(
                    {
                        "size": size,
                        "precision": "bf16" if bf16 else "fp32",
                        "compiled": "yes" if compiled else "no",
                        "tokens/s": round(speed),
                        "against fp32": speed / base,
                        "first step s": times[0],
                    }
                )
    return rows


MINUTES = (1, 2, 5)


def minutes(picture: Path | None) -> list[dict]:
    """`folio pretrain` as it is, for some minutes, as processes of their own: how good it gets on the Python manual."""
    rows, curves = [], {}
    for allowed in MINUTES:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "foliogpt.scripts.cli", "pretrain", "--output_dir", f"{folder}/run"]
            subprocess.run([*command, "--minutes", str(allowed)], check=True, stderr=subprocess.DEVNULL)
            report = json.loads(Path(folder, "run", "report.json").read_text())
            metrics = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
        curves[allowed] = [(entry["seconds"] / 60, entry["eval_loss"]) for entry in metrics if "eval_loss" in entry]
        rows.append({"minutes of training": allowed, "tokens": f"{report['tokens']:,}",
                     "loss": report["val_loss"], "bits per byte": report["val_bits_per_byte"]})  # fmt: skip
    if picture is not None:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt

        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        for allowed, points in curves.items():
            axes.plot(*zip(*points, strict=True), "o-", label=f"--minutes {allowed}")
        axes.set(xlabel="minutes", ylabel="validation loss (nats a token)", xscale="log", title="folio pretrain")
        axes.set_xticks(MINUTES, map(str, MINUTES))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(picture, dpi=120)
    return rows


def quickstart(picture: Path | None) -> tuple[list[dict], dict]:
    """The quickstart with its defaults, as a process of its own; its loss curve is copied to `picture`."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, "-m", "foliogpt.scripts.cli", "quickstart", "--output_dir", f"{folder}/quickstart"]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        report = json.loads(Path(folder, "quickstart", "report.json").read_text())
        if picture is not None:
            shutil.copy(Path(folder, "quickstart", "loss.png"), picture)
    bits = {"this model": report["val_bits_per_byte"], **report["baseline_bits_per_byte"]}
    rows = [{"": name, "bits per byte": value, "against bz2": value / bits["bz2"]} for name, value in bits.items()]
    return rows, {"wall_seconds": seconds, **report}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", nargs="+", choices=["startup", "precision", "quickstart", "minutes"], default=[])
    options.add_argument("--picture", type=Path, help="copy the quickstart's loss curve there")
    options.add_argument("--minutes-picture", type=Path, help="draw the loss against minutes there")
    chosen = options.parse_args()
    figures = {}
    if not chosen.only or "startup" in chosen.only:
        figures["startup"] = startup()
        show("Start-up", figures["startup"])
    if not chosen.only or "precision" in chosen.only:
        figures["precision"] = precision()
        show("Training speed by precision", figures["precision"], "Batch 16 x 256 tokens.")
    if not chosen.only or "quickstart" in chosen.only:
        rows, report = quickstart(chosen.picture)
        figures["quickstart"] = report
        memory = report["peak_memory_bytes"] / 1e9
        note = f"{report['wall_seconds']:.0f} s in all, {memory:.2f} GB at the peak, {report['steps']} steps."
        show("folio quickstart, held-out text", rows, note)
    if not chosen.only or "minutes" in chosen.only:
        figures["minutes"] = minutes(chosen.minutes_picture)
        show("folio pretrain on the Python manual", figures["minutes"])
    write(chosen.json, figures)


if __name__ == "__main__":
    main()
