"""A tiny random embedder, and documents for it."""

import pytest

pytest.importorskip("chromadb", reason="needs foliogpt[rag]")
pytest.importorskip("sentence_transformers", reason="needs foliogpt[rag]")

WORDS = """
    the a of and to in is cat dog moon sun river stone tree bird fish night day king queen castle sword ship sea wind
    rain snow fire gold silver apple bread wine song dance love war peace light dark old new red blue green white
"""


def make_embedder(folder, seed: int = 0):
    """A sentence-transformers model of random weights that knows WORDS and single letters."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    letters = [chr(c) for c in range(33, 127)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split(), *letters, *(f"##{c}" for c in letters)]
    vocabulary = list(dict.fromkeys(vocabulary))
    source = folder.with_name(f"{folder.name}-transformer")
    source.mkdir(parents=True)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=256,
    )  # fmt: skip
    BertModel(config).save_pretrained(source)
    (source / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(vocab_file=str(source / "vocab.txt"), model_max_length=256).save_pretrained(source)
    transformer = Transformer(str(source))
    SentenceTransformer(modules=[transformer, Pooling(32, "mean")], device="cpu").save(str(folder))
    return folder


@pytest.fixture(scope="session")
def embedder_folder(tmp_path_factory):
    return make_embedder(tmp_path_factory.mktemp("embedder") / "tiny")


@pytest.fixture(scope="session")
def embedder(embedder_folder):
    from foliogpt.rag.embedding import load_embedder

    return load_embedder(embedder_folder)


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
def rag(tmp_path, embedder):
    from foliogpt.rag import Rag

    with Rag.open(tmp_path / "index", embedder=embedder) as opened:
        yield opened
