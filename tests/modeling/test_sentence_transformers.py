"""A bidirectional checkpoint is a sentence-transformers model as it stands."""

import os

import forks
import numpy as np
import pytest

from foliogpt.modeling import FolioModel
from foliogpt.tokenization import train_tokenizer

pytest.importorskip("sentence_transformers", reason="needs foliogpt[rag]")

TEXTS = ["w1 w2 w3", "w4 w5", "w6 w7 w8 w9 w10"]


@pytest.fixture
def encoder(tiny, tmp_path):
    words = [f"w{a} w{b} w{c}" for a in range(9) for b in range(9) for c in range(9)]
    tokenizer = train_tokenizer(words, 261, show_progress=False)
    tokenizer.model_max_length = 64
    folder = tmp_path / "encoder"
    FolioModel(tiny(vocab_size=261, is_causal=False, pad_token_id=tokenizer.pad_token_id)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_it_encodes_trains_saves_and_reloads(encoder, tmp_path):
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
        losses,
    )

    model = SentenceTransformer(str(encoder))  # adds mean pooling
    before = model.encode(TEXTS)
    np.testing.assert_allclose(model.encode(TEXTS[1:2])[0], before[1], atol=1e-5)  # padding changes nothing
    args = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "run"), max_steps=2, per_device_train_batch_size=4, learning_rate=1e-2, report_to=[],
        use_cpu=True, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    data = Dataset.from_dict({"anchor": TEXTS * 4, "positive": TEXTS[::-1] * 4})
    loss = losses.MultipleNegativesRankingLoss(model)
    SentenceTransformerTrainer(model=model, args=args, train_dataset=data, loss=loss).train()
    after = model.encode(TEXTS)
    assert np.abs(after - before).max() > 1e-3
    model.save(str(tmp_path / "saved"))
    np.testing.assert_allclose(SentenceTransformer(str(tmp_path / "saved")).encode(TEXTS), after, atol=1e-5)


@pytest.mark.slow
def test_a_process_without_the_package_encodes_the_same(encoder, tmp_path):
    from sentence_transformers import SentenceTransformer

    script = f"""
import sys
sys.modules["foliogpt"] = None
import numpy as np
from sentence_transformers import SentenceTransformer
np.save("out.npy", SentenceTransformer({str(encoder)!r}, trust_remote_code=True).encode({TEXTS!r}))
"""
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = forks.run([script], stranger=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(
        np.load(tmp_path / "out.npy"), SentenceTransformer(str(encoder)).encode(TEXTS), atol=1e-5
    )
