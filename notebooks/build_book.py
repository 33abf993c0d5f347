"""Make the book's notebooks from their sources: execute each chapter once, and write it with and without solutions.

python notebooks/build_book.py            all chapters
python notebooks/build_book.py 05 08      those that begin with these numbers
python notebooks/build_book.py 05 --pictures FOLDER
python notebooks/build_book.py 05 --prose    only text has changed: keep the outputs
"""

import argparse
import base64
import copy
import io
import multiprocessing
import re
import resource
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

from chapter_rules import MAX_COLUMNS, rule_problems
from exercises import exercises, stub

HERE = Path(__file__).parent
REPOSITORY = "https://github.com/foliogpt/foliogpt"
COLAB = "https://colab.research.google.com/github/foliogpt/foliogpt/blob/main/notebooks"
MAX_BYTES, MAX_CPU_SECONDS = 300_000, 180
FIRST_CELL = f"""\
# In Colab: fetch the book, and install the package with the book's extra.
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("foliogpt") is None:
    url = "{REPOSITORY}"
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", url], check=True)
    os.chdir("foliogpt/notebooks")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "../.[book]"]
    subprocess.run(install, check=True)
if os.path.basename(os.getcwd()) == "solutions":
    os.chdir("..")
sys.path.insert(0, os.getcwd())

import chapter

chapter.start()"""


def sources(numbers: list[str] = ()) -> list[Path]:
    """Return the chapters' sources in order; raise ValueError for a number that no chapter has."""
    found = sorted((HERE / "source").glob("[0-9][0-9]-*.md"))
    for number in numbers:
        if not any(path.name.startswith(f"{number}-") for path in found):
            raise ValueError(f"There is no chapter {number}: choose one of {', '.join(p.name[:2] for p in found)}.")
    return [path for path in found if not numbers or path.name[:2] in numbers]


def format_code(source: Path) -> None:
    """Format the code cells of a source in place."""
    block = re.compile(
        r"(?<=^```\{code-cell\} ipython3\n)((?::[^\n]*\n)*\n*)(.*?)(?=^```$)", flags=re.MULTILINE | re.DOTALL
    )

    def formatted(match: re.Match) -> str:
        command = [sys.executable, "-m", "ruff", "format", "--line-length", str(MAX_COLUMNS), "-"]
        done = subprocess.run(command, input=match[2], capture_output=True, text=True)
        return match[1] + (done.stdout.rstrip("\n") + "\n" if done.returncode == 0 else match[2])

    text = source.read_text(encoding="utf-8")
    if (result := block.sub(formatted, text)) != text:
        source.write_text(result, encoding="utf-8")


# --- From a source to notebooks ---


def read(source: Path, cpu_seconds: float = 0.0):
    """Return a chapter as a notebook with solutions: its source, the line below the title, and the first cell."""
    chapter = jupytext.read(source, fmt="md:myst")
    title, cells = chapter.cells[0], chapter.cells[1:]
    heading, _, rest = title.source.partition("\n")
    about = (
        f"*About {10 * max(1, round(cpu_seconds / 10))} CPU-seconds on one core. Other processors, CUDA and MPS give "
        f"slightly different numbers.* [Open in Colab]({COLAB}/{source.stem}.ipynb)"
    )
    title.source = f"{heading}\n\n{about}\n{rest}"
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [title, nbformat.v4.new_code_cell(FIRST_CELL, metadata={"tags": ["hide-input"]}), *cells]
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:03}"
        cell.metadata = {"tags": list(cell.metadata.tags)} if cell.metadata.get("tags") else {}
        cell.metadata["slideshow"] = {"slide_type": slide_type(cell)}
        cell.metadata = nbformat.from_dict(cell.metadata)
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata.folio = {"cpu_seconds": round(cpu_seconds, 1)}
    return notebook


def slide_type(cell) -> str:
    """Return where nbconvert shows a cell: each section is a row of slides; code and captions follow their text."""
    if cell.cell_type == "code" or cell.source.startswith("*Figure"):
        return "-"
    return "slide" if cell.source.startswith("#") else "subslide"


def for_learner(solutions):
    """Return the notebook without solutions; a failed check does not stop the cells after it."""
    notebook = copy.deepcopy(solutions)
    for exercise, check in exercises(notebook):
        notebook.cells[exercise].source = stub(notebook.cells[exercise].source)
        notebook.cells[check].metadata.tags = ["check", "raises-exception"]
        for index in (exercise, check):
            notebook.cells[index].outputs, notebook.cells[index].execution_count = [], None
    return notebook


def execute(notebook) -> list[str]:
    """Execute in a fresh kernel, in place; return the number of each exercise whose stub passes its check."""
    pairs = exercises(notebook)
    count = len(notebook.cells)
    for exercise, check in pairs:
        for code in (stub(notebook.cells[exercise].source), notebook.cells[check].source):
            cell = nbformat.v4.new_code_cell(code)
            cell.metadata.tags = ["raises-exception"]
            notebook.cells.append(cell)
    options = {"kernel_name": "python3", "extra_arguments": ["--log-level=ERROR"]}
    NotebookClient(
        notebook, timeout=900, resources={"metadata": {"path": str(Path(__file__).parent)}}, **options
    ).execute()
    trials, notebook.cells = notebook.cells[count:], notebook.cells[:count]
    del notebook.metadata["language_info"]
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times, which differ with each build
        if cell.cell_type == "code":
            cell.outputs = [compressed(output) for output in joined(cell.outputs)]
    fails = [any(o.output_type == "error" for o in cell.outputs) for cell in trials[1::2]]
    return [f"the stub of exercise {i} passes its check" for i, failed in enumerate(fails, 1) if not failed]


def joined(outputs: list) -> list:
    """Join the pieces of one stream, which come in an order and number that differ."""
    result = []
    for output in outputs:
        if result and output.output_type == "stream" == result[-1].output_type and output.name == result[-1].name:
            result[-1].text += output.text
        else:
            result.append(output)
    return result


def compressed(output):
    """Write a picture with 64 colors."""
    if "image/png" in output.get("data", {}):
        picture = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"])))
        buffer = io.BytesIO()
        picture.quantize(64, method=Image.Quantize.FASTOCTREE).save(buffer, "png", optimize=True)
        output.data = {"image/png": base64.b64encode(buffer.getvalue()).decode()}
        output.metadata = {}
    return output


def renew_prose(source: Path) -> list[str]:
    """Write a chapter's notebooks with the outputs that they have, and return what is wrong with it."""
    format_code(source)
    built = nbformat.read(HERE / "solutions" / f"{source.stem}.ipynb", as_version=4)
    notebook = read(source, built.metadata.folio.cpu_seconds)
    old, new = ([cell for cell in each.cells if cell.cell_type == "code"] for each in (built, notebook))
    if [cell.source for cell in old] != [cell.source for cell in new]:
        return ["its code has changed: build it without --prose"]
    for before, cell in zip(old, new, strict=True):
        cell.outputs, cell.execution_count = before.outputs, before.execution_count
    write(source, notebook)
    return problems(source)


def make(source: Path) -> list[str]:
    """Build one chapter, write its two notebooks, and return what is wrong with it."""
    format_code(source)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    notebook = read(source)
    found = execute(notebook)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    for cell, final in zip(notebook.cells, read(source, seconds).cells, strict=True):
        cell.source = final.source  # the line below the title
    notebook.metadata.folio.cpu_seconds = round(seconds, 1)
    write(source, notebook)
    return found + problems(source)


def write(source: Path, notebook) -> None:
    nbformat.write(notebook, HERE / "solutions" / f"{source.stem}.ipynb")
    nbformat.write(for_learner(notebook), HERE / f"{source.stem}.ipynb")


def write_pictures(source: Path, folder: Path) -> None:
    """Write a built chapter's pictures as files, on white and on black, to be looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    notebook = nbformat.read(HERE / "solutions" / f"{source.stem}.ipynb", as_version=4)
    outputs = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    for number, data in enumerate((data for data in outputs if "image/png" in data), 1):
        picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGBA")
        for name in ("white", "black"):
            paper = Image.new("RGBA", picture.size, name)
            Image.alpha_composite(paper, picture).save(folder / f"{source.stem}-{number}-{name}.png")


def problems(source: Path) -> list[str]:
    """Return what is wrong with a built chapter: one line each."""
    paths = [HERE / f"{source.stem}.ipynb", HERE / "solutions" / f"{source.stem}.ipynb"]
    for path in paths:
        if not path.exists():
            return [f"{path.name} is missing: run python notebooks/build_book.py {source.name[:2]}"]
    learner, built = (nbformat.read(path, as_version=4) for path in paths)
    expected = read(source, built.metadata.folio.cpu_seconds)
    found = [f"{path} has over {MAX_BYTES:,} bytes" for path in paths if path.stat().st_size > MAX_BYTES]
    if contents(built) != contents(expected) or contents(learner) != contents(for_learner(expected)):
        found.append("the notebooks do not equal their source: build the chapter again")
    if built.metadata.folio.cpu_seconds > MAX_CPU_SECONDS:
        found.append(f"it takes {built.metadata.folio.cpu_seconds} CPU-seconds, more than {MAX_CPU_SECONDS}")
    return found + rule_problems(paths[1], built)


def contents(notebook) -> list[tuple]:
    return [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", help="of chapters, such as 05; default: all")
    parser.add_argument("--jobs", type=int, default=2, help="chapters at once; default: 2")
    parser.add_argument("--prose", action="store_true", help="execute nothing, and keep the outputs")
    parser.add_argument("--pictures", type=Path, help="a folder for the pictures, on white and on black")
    args, failed = parser.parse_args(argv), False
    try:
        chosen = sources(args.numbers)
    except ValueError as error:
        parser.error(str(error))
    (HERE / "solutions").mkdir(exist_ok=True)
    work = renew_prose if args.prose else make
    with multiprocessing.get_context("spawn").Pool(min(args.jobs, len(chosen)), maxtasksperchild=1) as pool:
        for source, found in zip(chosen, pool.imap(work, chosen, chunksize=1), strict=True):
            built = nbformat.read(HERE / f"{source.stem}.ipynb", as_version=4)
            print(f"{source.stem}: {built.metadata.folio.cpu_seconds} CPU-seconds", *found, sep="\n  ", flush=True)
            failed |= bool(found)
            if args.pictures:
                write_pictures(source, args.pictures)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
