"""Make what tests/test_artifacts.py opens: a run that was stopped, a finished one, an adapter and an index.

The files beside this one were made by commit 0acc7c3 with transformers 5.23.0, before the folders of the package were
drawn anew. What users have made has to open, resume and answer in later versions.
"""

import json
import shutil
import sys
from pathlib import Path

from foliogpt.data.arguments import CorpusArguments, DataArguments
from foliogpt.modeling.presets import SIZES
from foliogpt.rag import Rag
from foliogpt.training.arguments import ModelArguments, PretrainingArguments
from foliogpt.training.finetuning.arguments import MethodArguments
from foliogpt.training.finetuning.finetuning import finetune
from foliogpt.training.finetuning.trainers import arguments_of
from foliogpt.training.pretraining import pretrain

HERE = Path(sys.argv[1])  # a new folder; its path stays in the files
sys.path.insert(0, str(Path(__file__).parents[1] / "rag"))
from embedders import WordEmbedder  # noqa: E402

SIZES["nano"] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
LINE = "One two three, the {} is free; four five six, the {} has tricks.\n"
DOCUMENTS = ("the cat and the dog", "a king in a castle", "the moon is silver", "red wine")


def settings(folder: Path, max_steps: int) -> PretrainingArguments:
    return PretrainingArguments(
        output_dir=str(folder), max_steps=max_steps, per_device_train_batch_size=4, bf16=False, save_steps=4,
        save_total_limit=None, eval_steps=4, decay_steps=4, overwrite=True,
    )  # fmt: skip


def main() -> None:
    text = HERE / "rhyme.txt"
    words = ("fox", "owl", "bee", "ant")
    text.write_text("".join(LINE.format(a, b) for a in ("cat", "dog", "hen") * 9 for b in words))
    corpus, model = CorpusArguments(corpus=str(text)), ModelArguments(tokenizer="char", block_size=32)
    whole = pretrain(corpus, model, settings(HERE / "run", 8))
    stopped = HERE / "stopped"  # as a run that was killed after its fourth step
    stopped.mkdir()
    shutil.copy(HERE / "run" / "run.yaml", stopped)
    shutil.move(HERE / "run" / "checkpoint-4", stopped)
    shutil.rmtree(HERE / "run" / "checkpoint-8")
    rows = HERE / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": LINE.format(a, "fox")}) + "\n" for a in words * 5))
    args = arguments_of("lm")(output_dir=str(HERE / "adapter"), max_steps=2, save_strategy="no", bf16=False)
    finetune(DataArguments(data=str(rows), task="lm"), MethodArguments(model=str(HERE / "run"), lora_r=2), args)
    with Rag.open(HERE / "index", embedder=WordEmbedder()) as rag:
        folder = HERE / "documents"
        folder.mkdir(exist_ok=True)
        for number, document in enumerate(DOCUMENTS):
            (folder / f"{number}.txt").write_text(document + "\n")
        rag.sync(folder)
    (HERE / "expected.json").write_text(json.dumps({"val_loss": whole["val_loss"]}) + "\n")


if __name__ == "__main__":
    main()
