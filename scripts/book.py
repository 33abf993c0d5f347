"""Open the book's chapters in Jupyter, or list the exercises that you have solved.

    folio book
    folio book progress

`progress` reads your notebooks: an exercise is solved if its check has run without an error and the notebook is saved.
"""

import importlib.util
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..jobs.options import option


@dataclass
class BookArguments:
    folder: str = option("notebooks", "folder of the chapters")


def main(argv: list[str]) -> None:
    from .arguments import parse

    wants_progress = argv[:1] == ["progress"]
    (args,) = parse(argv[wants_progress:], [BookArguments], "folio book", __doc__)
    if not (Path(args.folder) / "curriculum.yaml").exists():
        remedy = "git clone https://github.com/foliogpt/foliogpt, and give its notebooks as --folder"
        raise FileNotFoundError(f"The book is not in {args.folder}: {remedy}.")
    if wants_progress:
        print("\n".join(progress(Path(args.folder))))
        return
    if importlib.util.find_spec("jupyterlab"):
        os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", args.folder])
    raise ImportError("folio book needs Jupyter: pip install jupyterlab, or open the notebooks in an editor.")


def progress(folder: Path) -> list[str]:
    """Return a line per part of the curriculum with the number of solved exercises."""
    lines = []
    for part, topics in yaml.safe_load((folder / "curriculum.yaml").read_text(encoding="utf-8")).items():
        paths = [path for number in {topic[1] for topic in topics} for path in folder.glob(f"{number:02}-*.ipynb")]
        cells = [cell for path in paths for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
        checks = [cell for cell in cells if "check" in cell["metadata"].get("tags", [])]
        ran = [[output["output_type"] for output in cell["outputs"]] for cell in checks if cell["execution_count"]]
        solved = sum("error" not in kinds for kinds in ran)
        lines.append(f"{part:<30} {solved:>2} of {len(checks):<2} {'█' * solved}{'░' * (len(checks) - solved)}")
    return lines
