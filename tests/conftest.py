"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest

pytest_plugins = ["corpora", "tiny_models"]

# Before anything imports huggingface_hub: no test may depend on, or wait for, the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


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
