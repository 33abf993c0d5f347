"""An answer is found wherever it is in a text, and `folio evaluate` measures what `folio answer` prints."""

import json

import pytest
import torch
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from foliogpt.data.formats import NO_ANSWER
from foliogpt.evaluation.arguments import EvaluationArguments
from foliogpt.evaluation.inference import Subject
from foliogpt.evaluation.run import evaluate
from foliogpt.evaluation.spans import find_answers
from foliogpt.modeling import FolioForQuestionAnswering, preset_config
from foliogpt.scripts.cli import main
from foliogpt.tokenization import train_tokenizer

TEXT = "The sun is in the east, and Juliet is the sun of Verona."
FILLER = "one two three. "


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([TEXT + " one two three"] * 50, vocab_size=280, show_progress=False)


def config(tokenizer):
    torch.manual_seed(0)
    return preset_config(
        "folio", "nano", vocab_size=280, hidden_size=32, num_hidden_layers=2, intermediate_size=48,
        max_position_embeddings=64, initializer_range=0.5, residual_init="normal", pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip


class Marker(torch.nn.Module):
    """A model that marks one text wherever it reads it, and otherwise says that there is no answer."""

    def __init__(self, tokenizer, answer: str):
        super().__init__()
        self.answer = tokenizer(answer)["input_ids"]
        self.config, self.device = config(tokenizer), torch.device("cpu")

    def forward(self, input_ids, attention_mask):
        starts, ends = torch.zeros(2, *input_ids.shape)
        starts[:, 0] = ends[:, 0] = 5
        size = len(self.answer)
        for row, ids in enumerate(input_ids.tolist()):
            for i in range(len(ids)):
                if ids[i : i + size] == self.answer:
                    starts[row, i] = ends[row, i + size - 1] = 9
        return QuestionAnsweringModelOutput(start_logits=starts, end_logits=ends)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_an_answer_is_found_wherever_it_is_in_a_text_longer_than_the_context(tokenizer, batch_size):
    texts = [FILLER * before + "It is Juliet." + " three two one" * 20 for before in (0, 1, 7, 30)]
    spans = find_answers(Subject(Marker(tokenizer, " Juliet"), tokenizer, batch_size), ["Who?"] * 4, texts)
    assert spans == [(text.index("Juliet"), text.index("Juliet") + len("Juliet")) for text in texts]


def test_find_answers_may_find_none_and_never_marks_the_question(tokenizer):
    subject, blank = (Subject(Marker(tokenizer, answer), tokenizer) for answer in (" Juliet", " "))
    assert find_answers(subject, ["Is it Juliet or not?"], [FILLER * 30]) == [None]
    assert find_answers(blank, ["Who?"], ["one  two"]) == [None]  # whitespace is none
    assert find_answers(subject, ["Who?"], [""]) == [None]
    assert find_answers(subject, [], []) == []
    with pytest.raises(ValueError, match="no room"):
        find_answers(subject, ["Who? " * 50], [TEXT])


@pytest.mark.parametrize("answered", [[True, True, True], [True, False, True]], ids=["all", "some"])
def test_evaluate_measures_the_answers_that_folio_answer_prints(tokenizer, tmp_path, capsys, answered):
    """Answers to other questions of a dataset must not change the answer to one."""
    model = FolioForQuestionAnswering(config(tokenizer)).eval()
    ids = tokenizer("W", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        first = model.model(input_ids=ids).last_hidden_state[0, 0]  # of every window; no other state is as near to it
    questions = ["Who is the sun?", "Where?", "What?"]
    contexts = [TEXT, FILLER * 12 + TEXT, "Verona is in the east " * 9]
    places = [{"text": ["east"], "answer_start": [context.index("east")]} for context in contexts]
    none = {"text": [], "answer_start": []}
    rows = [
        {"question": question, "context": context, "answers": place if has_answer else none}
        for question, context, place, has_answer in zip(questions, contexts, places, answered, strict=True)
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    said_none = set()
    for name, direction in {"answers": -first, "refuses": first, "random": torch.randn_like(first)}.items():
        folder = str(tmp_path / name)
        model.qa_outputs.weight.data.copy_(direction.expand(2, -1))
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        found = evaluate(EvaluationArguments(folder, str(tmp_path / "rows.json")))["details"]["predictions"]
        for row, prediction in zip(rows, found, strict=True):
            capsys.readouterr()
            command = ["answer", "--model", folder, "--question", row["question"], "--context", row["context"]]
            assert main(command) == 0
            printed = capsys.readouterr().out.removesuffix("\n")
            assert printed == (prediction["prediction"] or NO_ANSWER)
            said_none.add(printed == NO_ANSWER)
    assert said_none == {True, False}
