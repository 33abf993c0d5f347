"""Embedders, documents, and an index for them."""

import pytest
from embedders import WordEmbedder, make_embedder

from foliogpt.rag import Rag


@pytest.fixture(scope="session")
def embedder_folder(tmp_path_factory):
    return make_embedder(tmp_path_factory.mktemp("embedder") / "tiny")


@pytest.fixture(scope="session")
def embedder(embedder_folder):
    from foliogpt.rag.embedding import load_embedder

    return load_embedder(embedder_folder)


@pytest.fixture
def words():
    return WordEmbedder()


@pytest.fixture
def folder(tmp_path):
    """Six small files."""
    path = tmp_path / "documents"
    (path / "deep").mkdir(parents=True)
    for number, text in enumerate(("the cat and the dog", "a king in a castle", "the moon is silver", "red wine")):
        (path / f"{number}.txt").write_text(text + "\n")
    (path / "deep" / "page.md").write_text("# Ships\n\nA ship on the sea.\n\n# Birds\n\nA bird in the wind.\n")
    (path / "deep" / "0.txt").write_text("a song and a dance\n")
    return path


@pytest.fixture
def rag(tmp_path, words):
    with Rag.open(tmp_path / "index", embedder=words) as opened:
        yield opened
