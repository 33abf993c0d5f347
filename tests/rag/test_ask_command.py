"""`folio rag ask` as a user meets it."""

import shutil

import pytest
import torch

from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.rag.embedding import Embedder
from foliogpt.scripts.cli import main
from foliogpt.tokenization import train_tokenizer


@pytest.fixture(autouse=True)
def no_probe(monkeypatch):
    monkeypatch.setattr(Embedder, "faster_dtype", lambda self: "float32")


@pytest.fixture
def index(tmp_path, made_index, monkeypatch):
    monkeypatch.chdir(made_index.parent / "documents")
    shutil.copytree(made_index.parent / "empty", tmp_path / "empty")
    return str(shutil.copytree(made_index, tmp_path / "index"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    tokenizer = train_tokenizer(["the moon is silver 1 2 3"] * 200, vocab_size=276, show_progress=False)
    torch.manual_seed(0)
    config = preset_config(
        "folio", "nano", vocab_size=276, hidden_size=32, num_hidden_layers=2, intermediate_size=48,
        max_position_embeddings=1200, residual_init="normal", initializer_range=0.5,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = FolioForCausalLM(config)
    model.generation_config.update(suppress_tokens=tokenizer.all_special_ids)
    folder = tmp_path_factory.mktemp("writer") / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_answer_is_printed_and_then_where_it_stands(index, capsys):
    assert main(["rag", "ask", "is the moon silver?", "--index", index, "--k", "1"]) == 0
    assert capsys.readouterr().out == '"the moon is silver" [1]\n\n[1] 2.txt [0:18]\n    the moon is silver\n'


def test_a_refusal_says_why_and_is_no_error(index, capsys):
    assert main(["rag", "ask", "love war peace?", "--index", index]) == 0
    out = capsys.readouterr().out
    assert out.startswith("No answer: no passage is relevant enough to the question")
    assert "\n\nThe nearest passages, though none may answer it:\n[1] " in out
    assert "[3] " in out


def test_a_question_may_begin_with_a_dash(index, capsys):
    assert main(["rag", "ask", "--index", index, "--", "-is the moon silver?"]) == 0
    assert '"the moon is silver" [1]' in capsys.readouterr().out


def test_ask_answers_every_question_with_refuse_never(index, capsys):
    assert main(["rag", "ask", "love war peace?", "--index", index, "--refuse", "never"]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("[1]")


def test_ask_marks_invented_sentences_of_a_model(index, checkpoint, capsys, monkeypatch):
    def generate(self, choice, emit) -> None:
        for piece in ('It is "the moon is', ' silver" [1]. It', "\x1b[2J is cheese", "."):
            emit(piece)

    monkeypatch.setattr("foliogpt.serving.generator.TextGenerator._generate", generate)
    argv = ["rag", "ask", "is the moon silver?", "--index", index, "--generator", str(checkpoint), "--k", "1"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        'It is "the moon is silver" [1]. It\\u001b[2J is cheese. [citation needed]\n\n[1] 2.txt [0:18]'
    )


def test_the_options_of_generate_reach_the_model_wherever_the_question_stands(index, checkpoint, capsys, monkeypatch):
    choices = []
    monkeypatch.setattr(
        "foliogpt.serving.generator.TextGenerator._generate", lambda self, choice, emit: choices.append(choice)
    )
    argv = ["--index", index, "--generator", str(checkpoint), "--max_new_tokens", "7", "is the moon silver?"]
    assert main(["rag", "ask", *argv, "--temperature", "0.5", "--seed", "3", "--no_repeat_ngram_size=4"]) == 0
    config = choices[-1].config
    assert (config.max_new_tokens, config.temperature, config.do_sample) == (7, 0.5, True)
    assert (config.no_repeat_ngram_size, choices[-1].seed) == (4, 3)
    assert main(["rag", "ask", *argv]) == 0
    assert choices[-1].config.do_sample is False


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["", "--index", "INDEX"], "empty"), (["x" * 1_000_000, "--index", "INDEX"], "at most"), (["moon"], "--index"),
        (["moon", "--index", "INDEX", "--k", "0"], "at least 1"), (["moon", "--index", "nowhere"], "folio rag sync"),
        (["moon", "--index", "EMPTY"], "is empty"), (["moon", "--index", "INDEX", "--where", "["], "not JSON"),
        (["moon", "--index", "INDEX", "--mode", "best"], "hybrid"),
        (["moon", "--index", "INDEX", "--refuse", "often"], "never, default, strict"),
        (["moon", "--index", "INDEX", "--temperature", "1"], "give --generator MODEL"),
        (["moon", "--index", "INDEX", "--generator", "MODEL", "--max_new_tokens", "9999"], "max_new_tokens 1199 or"),
        (["moon", "--index", "INDEX", "--generator", "MODEL", "--top_p=-1"], "check --top_p"),
        (["moon", "--index", "INDEX", "--generator", "MODEL", "--beams", "7"], "no option '--beams'"),
        (["moon", "--index", "INDEX", "--generator", "nowhere"], "No model at 'nowhere'"),
        (["moon", "--index", "INDEX", "--generator", "EMBEDDER"], "no causal language model"),
        (["moon", "--index", "INDEX", "--generator", "PLAIN"], "no chat template"),
    ],
)  # fmt: skip
def test_ask_reports_invalid_arguments_in_one_line(argv, says, index, tmp_path, embedder_folder, checkpoint, capsys):
    plain = shutil.copytree(checkpoint, tmp_path / "plain", ignore=shutil.ignore_patterns("chat_template*"))
    paths = {
        "INDEX": index,
        "EMPTY": tmp_path / "empty",
        "EMBEDDER": embedder_folder,
        "PLAIN": plain,
        "MODEL": checkpoint,
    }
    capsys.readouterr()
    assert main(["rag", "ask", *(str(paths.get(word, word)) for word in argv)]) == 2
    out, err = capsys.readouterr()
    (line,) = [line for line in err.strip().splitlines() if "%|" not in line]
    assert says in line
    assert out == ""
