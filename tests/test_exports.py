"""The Python API: what each folder exports, that it is documented, and that importing it is cheap."""

import importlib
import inspect
import subprocess
import sys

import pytest

EXPORTS = {
    "modeling": {
        "PRESETS", "SIZES", "FolioConfig", "FolioForCausalLM", "FolioForMaskedLM", "FolioForQuestionAnswering",
        "FolioForSequenceClassification", "FolioForTokenClassification", "FolioModel", "FolioPreTrainedModel",
        "preset_config",
    },
    "tokenization": {
        "BPETokenizer", "WordPieceTokenizer", "chat_tokenizer", "encode_chat", "encode_texts", "load_tokenizer",
        "train_char_tokenizer", "train_tokenizer", "vocabulary_size",
    },
    "data": {"CorpusArguments", "DataArguments"},
    "checkpoints": {"convert", "load_model", "push"},
    "evaluation": {"EvaluationArguments", "evaluate"},
    "training": {
        "FolioTrainer", "MethodArguments", "ModelArguments", "PretrainingArguments", "arguments_of", "finetune",
        "merge", "pretrain",
    },
    "rag": {
        "Answer", "Citation", "Document", "ExtractiveGenerator", "Heading", "Hit", "LLMGenerator", "Passage", "Rag",
        "Sentence", "SyncReport", "VerifyReport", "load_generator",
    },
}  # fmt: skip


@pytest.mark.parametrize("folder", EXPORTS)
def test_folder_exports_its_public_names_with_docstrings(folder):
    package = importlib.import_module(f"foliogpt.{folder}")
    assert set(package.__all__) == EXPORTS[folder]
    for name in package.__all__:
        value = getattr(package, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), name
            assert value.__module__.startswith("foliogpt."), name


@pytest.mark.parametrize("folder", ["checkpoints", "evaluation", "training"])
def test_folder_has_no_other_names(folder):
    package = importlib.import_module(f"foliogpt.{folder}")
    with pytest.raises(AttributeError, match=f"module 'foliogpt.{folder}' has no attribute 'nothing'"):
        _ = package.nothing


def test_importing_the_folders_imports_nothing_heavy():
    code = "import sys, foliogpt.training, foliogpt.checkpoints, foliogpt.evaluation; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
