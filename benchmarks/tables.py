"""Markdown tables with the date and the machine they were measured on."""

import argparse
import datetime
import json
import os
import platform
from pathlib import Path

from foliogpt.jobs.markdown import markdown_table


def machine() -> str:
    """The kind of machine: processor, cores, Python and torch."""
    import torch

    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"


def show(title: str, rows: list[dict], note: str = "") -> None:
    """Print rows with the same keys as a Markdown table."""
    print(f"\n### {title}\n\n{datetime.date.today()}, {machine()}. {note}\n")
    cells = [[f"{cell:,.3g}" if isinstance(cell, float) else cell for cell in row.values()] for row in rows]
    print(markdown_table(rows[0], cells), flush=True)


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    return parser


def write(path: Path | None, figures: dict) -> None:
    """Write all figures as JSON, if a path was given."""
    if path is not None:
        path.write_text(json.dumps({"date": str(datetime.date.today()), "machine": machine(), **figures}, indent=2))
