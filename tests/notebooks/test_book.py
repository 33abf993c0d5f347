"""The book's notebooks are what their sources make, keep the book's rules, and check their exercises."""

import re
import sys
from pathlib import Path

import pytest
import yaml

from foliogpt.scripts import book
from foliogpt.scripts.cli import main as folio

jupytext = pytest.importorskip("jupytext", reason="needs the extra book")
nbformat = pytest.importorskip("nbformat", reason="needs the extra book")

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
sys.path.insert(0, str(NOTEBOOKS))
import build_book  # noqa: E402
import chapter_rules  # noqa: E402
import exercises  # noqa: E402

SOURCES = build_book.sources()
CHAPTERS = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
CURRICULUM = yaml.safe_load((NOTEBOOKS / "curriculum.yaml").read_text(encoding="utf-8"))


@CHAPTERS
def test_notebooks_equal_their_source_and_keep_the_rules(source):
    assert build_book.problems(source) == []


def test_each_notebook_has_a_source():
    names = {source.stem for source in SOURCES}
    for folder in (NOTEBOOKS, NOTEBOOKS / "solutions"):
        assert {path.stem for path in folder.glob("*.ipynb")} == names


@pytest.mark.parametrize(
    ("topic", "chapter", "words"),
    [entry for part in CURRICULUM.values() for entry in part],
    ids=[entry[0] for part in CURRICULUM.values() for entry in part],
)
def test_each_topic_of_the_curriculum_is_in_its_chapter(topic, chapter, words):
    (source,) = [path for path in SOURCES if path.name.startswith(f"{chapter:02}-")]
    text = source.read_text(encoding="utf-8")
    assert words.lower() in " ".join(text.lower().split())


@CHAPTERS
def test_links_to_files_lead_to_files(source):
    notebook = build_book.read(source)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert link.startswith("https://") or (NOTEBOOKS / link).exists(), link


# --- The tool ---

CHAPTER = """\
# 1. Half

```{code-cell} ipython3
print(1 / 2)
```

A half is 0.5.

```{code-cell} ipython3
:tags: [exercise]

def double(x):
    # your code
    return 2 * x
    # end
```

```{code-cell} ipython3
:tags: [check]

assert double(2) == 4, "multiply by 2"
print("Exercise 1 is solved.")
```
"""


@pytest.fixture
def chapter(tmp_path, monkeypatch):
    """A function that writes a source in a folder of its own, and returns its path."""

    def write(text: str = CHAPTER) -> Path:
        (tmp_path / "source").mkdir(exist_ok=True)
        (tmp_path / "solutions").mkdir(exist_ok=True)
        path = tmp_path / "source" / "01-half.md"
        path.write_text(text)
        return path

    monkeypatch.setattr(build_book, "HERE", tmp_path)
    return write


def test_learner_gets_the_exercise_without_its_solution(chapter):
    solutions = build_book.read(chapter())
    learner = build_book.for_learner(solutions)
    assert "return 2 * x" in solutions.cells[-2].source
    assert learner.cells[-2].source == f"def double(x):\n    # your code\n    {exercises.STUB}\n    # end"
    with pytest.raises(NotImplementedError):
        exec(learner.cells[-2].source + "\n" + learner.cells[-1].source)


def test_slides_begin_with_text_and_keep_its_code_and_caption(chapter):
    notebook = build_book.read(
        chapter(CHAPTER.replace("A half is 0.5.", "*Figure 1. A half.*\n\n+++\n\nA half is 0.5."))
    )
    types = [cell.metadata.slideshow.slide_type for cell in notebook.cells]
    assert types == ["slide", "-", "-", "-", "subslide", "-", "-"]


def test_numbers_in_prose_must_stand_in_the_output(chapter):
    notebook = build_book.read(chapter(CHAPTER.replace("0.5.", "0.5, or 50 %, in `0.7` of [2.5](https://x/3.5).")))
    notebook.cells[2].outputs = [nbformat.v4.new_output("stream", text="0.5\n")]
    assert [problem.split()[0] for problem in chapter_rules.number_problems(notebook)] == ["50", "2.5", "0.7"]


def test_checks_without_messages_and_captions_that_are_missing_are_found(chapter):
    notebook = build_book.read(chapter(CHAPTER.replace(', "multiply by 2"', "")))
    picture = nbformat.v4.new_output("display_data", {"image/png": "AAAA"})
    notebook.cells[2].outputs = [picture]
    assert any("a message that names the mistake" in problem for problem in chapter_rules.exercise_problems(notebook))
    assert any("caption" in problem for problem in chapter_rules.picture_problems(notebook))


@pytest.mark.slow
def test_stub_that_passes_its_check_is_found(chapter):
    assert build_book.execute(build_book.read(chapter())) == []
    lax = chapter(CHAPTER.replace("assert double(2) == 4", "assert callable(double)"))
    assert build_book.execute(build_book.read(lax)) == ["the stub of exercise 1 passes its check"]


# --- folio book ---


def test_progress_counts_checks_that_ran_without_an_error(chapter, tmp_path, capsys):
    learner = build_book.for_learner(build_book.read(chapter()))
    path = tmp_path / "01-half.ipynb"

    def progress() -> str:
        nbformat.write(learner, path)
        (tmp_path / "curriculum.yaml").write_text("Basics:\n  - [Halves, 1, half]\nMore:\n  - [Thirds, 2, third]\n")
        assert folio(["book", "progress", "--folder", str(tmp_path)]) == 0
        return capsys.readouterr().out

    assert "Basics                          0 of 1  ░\n" in progress()
    learner.cells[-1].execution_count = 3
    learner.cells[-1].outputs = [nbformat.v4.new_output("error", ename="AssertionError", evalue="", traceback=[])]
    assert "Basics                          0 of 1  ░\n" in progress()
    learner.cells[-1].outputs = []
    assert "Basics                          1 of 1  █\n" in progress()


def test_folder_without_the_book_is_an_error_of_one_line(tmp_path, capsys):
    assert folio(["book", "progress", "--folder", str(tmp_path)]) == 2
    assert "git clone" in capsys.readouterr().err


@pytest.mark.parametrize("there", ["jupyterlab", ""])
def test_book_opens_the_jupyter_that_is_installed(monkeypatch, there):
    called = []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == there)
    monkeypatch.setattr("os.execv", lambda program, words: called.append(words[1:]) or sys.exit())
    if there:
        with pytest.raises(SystemExit):
            book.main(["--folder", str(NOTEBOOKS)])
        assert called == [["-m", there, str(NOTEBOOKS)]]
    else:
        with pytest.raises(ImportError, match="pip install jupyterlab"):
            book.main(["--folder", str(NOTEBOOKS)])
