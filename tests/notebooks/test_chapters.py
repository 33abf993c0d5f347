"""Each chapter runs from a fresh kernel: its asserts hold, its solutions pass their checks, and its stubs fail them.

`make book` trains at full length. Here some trainings are shorter, and some tables have fewer rows: what the chapters
assert about them holds as well.
"""

import os
import sys
import time
from pathlib import Path

import forks
import pytest

pytest.importorskip("jupytext", reason="needs the extra book")

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))
import build_book
import chapter_rules

# The chapter embeds the same texts twice, once by itself and once in the index.
REMEMBERING = """embedder, vectors_of = load_embedder(), {}


def remembered(texts, encode=embedder.encode):
    texts = [text.strip() for text in texts]
    if new := [text for text in dict.fromkeys(texts) if text not in vectors_of]:
        vectors_of.update(zip(new, encode(new)))
    return np.stack([vectors_of[text] for text in texts])


embedder.encode = remembered"""
SHORTER = {
    "01-why-transformers": {"STEPS = 64, 300": "STEPS = 64, 100", "kind, steps=250": "kind, steps=150"},
    "02-text-and-tokens": {
        "(512, 1024, 2048, 4096, 8192, 16_384)": "(512, 1024, 4096, 8192)",
        "[0, 0.02, 0.1, 0.5, 0.9, 0.98, 1]": "[0, 0.02, 0.1, 0.5, 1]",
        "[500, 1000, 2000, 4000], {": "[500, 1000, 2000], {",
    },
    "04-positions": {"kind, steps=250": "kind, steps=180"},
    "05-attention": {
        "seed=0, every=10)": "seed=0, every=100)",
        "layers=2, steps=300": "layers=2, steps=250",
        "layers=1, steps=300": "layers=1, steps=200",
    },
    "06-block": {
        "build(n, block=block), 200)": "build(n, block=block), 120)",
        "depths = [1, 2, 4, 12]": "depths = [1, 2, 4, 8]",
        "train(model, 100, adamw)": "train(model, 60, adamw)",
        "steps=200, rate": "steps=160, rate",
    },
    "07-learning": {
        "1920 //": "1024 //",
        "[0.1, 0.3, 1, 3]": "[1, 3]",
        "[0.0003, 0.001, 0.003, 0.01, 0.03]": "[0.003, 0.01]",
        "[0.003, 0.01, 0.03, 0.1, 0.3]": "[0.01, 0.03, 0.1]",
        "STEPS, WARMUP = 200": "STEPS, WARMUP = 140",
        "decay=60": "decay=42",
    },
    "08-mini-gpt": {
        "STEPS, PROMPT = 600": "STEPS, PROMPT = 300",
        "STEPS, decay=200": "STEPS, decay=110",
        "decode(start), 96, temperature": "decode(start), 72, temperature",
        "start[None], 96, 4)": "start[None], 72, 4)",
    },
    "09-scaling-and-memory": {
        "(100, 200, 400)": "(60, 120, 240)",
        "600 * 512": "280 * 512",
        "run(80, 600)": "run(80, 280)",
        "train(shaped, 300)": "train(shaped, 160)",
    },
    "10-fine-tuning": {"old_text, 400, muon, every=400": "old_text, 300, muon, every=300", "every=15": "every=60"},
    "11-applications": {
        "both_texts(), 320": "both_texts(), 240",
        "train(reader, batches, 180": "train(reader, batches, 120",
        "endless(examples, 8, per_token=True), 70": "endless(examples, 8, per_token=True), 50",
        "endless(encoded(pairs), 8, per_token=True), 70": "endless(encoded(pairs), 8, per_token=True), 50",
        "test_summaries[:120]": "test_summaries[:60]",
    },
    "12-rag-and-evaluation": {"embedder = load_embedder()": REMEMBERING},
}


# `python -m ipykernel_launcher`, in a session of its own. A fork imports pyplot before the kernel names its backend.
KERNEL = """
import os
os.setsid()
import matplotlib
from ipykernel import kernelapp
matplotlib.rcParams["backend"] = "module://matplotlib_inline.backend_inline"
kernelapp.launch_new_instance()
"""


@pytest.fixture
def forked_kernels(monkeypatch):
    """Start kernels as forks, which have imported what the chapters import."""

    def launch(command: list[str], *, cwd, env, **options) -> forks.Popen:
        program = [KERNEL, *command[command.index("ipykernel_launcher") + 1 :]]
        unwatched = {**env, "JPY_PARENT_PID": "1"}  # a kernel ends with its parent, which is not this process
        process = forks.Popen(program, cwd=cwd, env=unwatched)
        while process.poll() is None and os.getpgid(process.pid) != process.pid:
            time.sleep(0.01)  # a signal to the kernel's group must not reach ours
        return process

    if sys.platform == "linux":  # elsewhere there are no forks
        monkeypatch.setattr("jupyter_client.provisioning.local_provisioner.launch_kernel", launch)


def shorten(notebook, chapter: str) -> None:
    """Replace what takes long, each of which stands in one cell."""
    for long, short in SHORTER.get(chapter, {}).items():
        (cell,) = [cell for cell in notebook.cells if cell.cell_type == "code" and long in cell.source]
        cell.source = cell.source.replace(long, short)


@pytest.mark.slow
@pytest.mark.parametrize("source", build_book.sources(), ids=lambda source: source.stem)
def test_chapter_runs_and_its_stubs_fail(source, forked_kernels):
    notebook = build_book.read(source)
    shorten(notebook, source.stem)
    assert build_book.execute(notebook) == []
    assert chapter_rules.form_problems(notebook) == []
