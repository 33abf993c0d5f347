"""Embedders, documents, and an index for them."""

from pathlib import Path

import pytest
from embedders import WordEmbedder, make_embedder

from foliogpt.rag import Rag
from foliogpt.rag.embedding import Embedder


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
    return write_files(tmp_path / "documents")


def write_files(path: Path) -> Path:
    (path / "deep").mkdir(parents=True)
    for number, text in enumerate(("the cat and the dog", "a king in a castle", "the moon is silver", "red wine")):
        (path / f"{number}.txt").write_text(text + "\n")
    (path / "deep" / "page.md").write_text("# Ships\n\nA ship on the sea.\n\n# Birds\n\nA bird in the wind.\n")
    (path / "deep" / "0.txt").write_text("a song and a dance\n")
    return path


@pytest.fixture(scope="module")
def made_index(tmp_path_factory, embedder_folder):
    """An index of six small files, to be copied, and beside it an empty one."""
    place = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Embedder, "faster_dtype", lambda self: "float32")
        for name, paths in (("index", write_files(place / "documents")), ("empty", [])):
            with Rag.open(place / name, embedder=embedder_folder) as rag:
                rag.sync(paths)
    return place / "index"


@pytest.fixture
def rag(tmp_path, words):
    with Rag.open(tmp_path / "index", embedder=words) as opened:
        yield opened
