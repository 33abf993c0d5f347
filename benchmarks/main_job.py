"""The main job: start-up, what each precision buys, the quickstart against compressors and the clock.

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


def quickstart(picture: Path | None) -> tuple[list[dict], list[dict], dict]:
    """The quickstart with its defaults, as a process of its own; its loss curve is copied to `picture`.

    Against compressors, against the minutes of its training (which is that of `folio pretrain --minutes 3`), and all.
    """
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, "-m", "foliogpt.scripts.cli", "quickstart", "--output_dir", f"{folder}/quickstart"]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        report = json.loads(Path(folder, "quickstart", "report.json").read_text())
        metrics = [json.loads(line) for line in Path(folder, "quickstart", "metrics.jsonl").read_text().splitlines()]
        if picture is not None:
            shutil.copy(Path(folder, "quickstart", "loss.png"), picture)
    bits = {"this model": report["val_bits_per_byte"], **report["baseline_bits_per_byte"]}
    rows = [{"": name, "bits per byte": value, "against bz2": value / bits["bz2"]} for name, value in bits.items()]
    a_nat = report["val_bits_per_byte"] / report["val_loss"]
    minutes = [
        {
            "minutes": entry["seconds"] / 60,
            "tokens": f"{entry['tokens']:,}",
            "bits per byte": entry["eval_loss"] * a_nat,
        }
        for entry in metrics
        if "eval_loss" in entry
    ]
    return rows, minutes, {"wall_seconds": seconds, **report}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", nargs="+", choices=["startup", "precision", "quickstart"], default=[])
    options.add_argument("--picture", type=Path, help="copy the quickstart's loss curve there")
    chosen = options.parse_args()
    figures = {}
    if not chosen.only or "startup" in chosen.only:
        figures["startup"] = startup()
        show("Start-up", figures["startup"])
    if not chosen.only or "precision" in chosen.only:
        figures["precision"] = precision()
        show("Training speed by precision", figures["precision"], "Batch 16 x 256 tokens.")
    if not chosen.only or "quickstart" in chosen.only:
        rows, minutes, report = quickstart(chosen.picture)
        figures["quickstart"], figures["minutes"] = report, minutes
        memory = report["peak_memory_bytes"] / 1e9
        note = f"{report['wall_seconds']:.0f} s in all, {memory:.2f} GB at the peak, {report['steps']} steps."
        show("folio quickstart, held-out text", rows, note)
        show("Its training on the Python manual", minutes)
    write(chosen.json, figures)


if __name__ == "__main__":
    main()
