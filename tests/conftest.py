"""Fixtures for all tests."""

import functools
import gc
import os
import subprocess
import types
from collections import Counter
from pathlib import Path

import pytest

pytest_plugins = ["corpora", "tiny_models"]

# Before anything imports huggingface_hub: no test may depend on, or wait for, the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


QUICK_TESTS_OF_A_SLOW_ONE = 20  # that take as long


@pytest.hookimpl(trylast=True)  # when it is known which tests are run
def pytest_collection_modifyitems(items):
    """Begin with the files that take longest: of several processes, none is left with one of them in the end."""
    weights = Counter()
    for item in items:
        weights[item.path] += QUICK_TESTS_OF_A_SLOW_ONE if item.get_closest_marker("slow") else 1
    items.sort(key=lambda item: -weights[item.path])


@pytest.fixture(scope="module", autouse=True)
def few_objects_to_search():
    """Each gc.collect(), which every training calls, would search the million objects of what is imported."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish():
    gc.unfreeze()  # hypothesis's summary asks what refers to an object


@pytest.fixture(scope="session", autouse=True)
def small_products():
    """Measure a CPU's peak, which every run of pretraining does, in a millisecond."""
    from foliogpt.training import flops

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flops, "SIZE", 128)
        yield


@pytest.fixture(scope="session", autouse=True)
def few_pictures():
    """Draw the first loss curve of each kind, and copy it for the others: each takes a fifth of a second."""
    from foliogpt.jobs import report

    draw, drawn = report.loss_curve, {}

    @functools.wraps(draw)
    def loss_curve(log_history, path, title, levels=None):
        kind = frozenset(key for entry in log_history for key in entry), bool(levels)
        if kind not in drawn:
            draw(log_history, path, title, levels)
            drawn[kind] = path.read_bytes()
        path.write_bytes(drawn[kind])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "loss_curve", loss_curve)
        yield


@pytest.fixture
def forked_strangers(monkeypatch):
    """Load checkpoints without the package in forks, which have imported the libraries, instead of interpreters."""
    import forks

    def run(command: list[str], *, capture_output, text, **options) -> subprocess.CompletedProcess:
        return forks.run(command[command.index("-c") + 1 :], stranger=True, **options)

    stand_in = types.SimpleNamespace(run=run, DEVNULL=subprocess.DEVNULL)
    monkeypatch.setattr("foliogpt.checkpoints.clean_process.subprocess", stand_in)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real data beside the repository; without it the test is skipped."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real data in {folder}")
    return folder


@pytest.fixture(scope="session")
def private_datasets_cache(tmp_path_factory):
    """Let datasets store what it converts in a folder of this run."""
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield
