"""Log-probabilities as clients get them, against the model's own."""

import json

import pytest
import torch
from starlette.testclient import TestClient

from foliogpt.modeling import FolioForCausalLM
from foliogpt.serving.openai_api import Api
from foliogpt.tokenization import encode_chat, train_tokenizer

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "the cat"}]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the cat is free"] * 20, vocab_size=265, show_progress=False)


@pytest.fixture(scope="module")
def model(tiny_config, tokenizer):
    torch.manual_seed(0)
    return FolioForCausalLM(tiny_config(vocab_size=len(tokenizer), max_position_embeddings=128)).eval()


@pytest.fixture(scope="module")
def api(model, tokenizer):
    with TestClient(Api("tiny", model, tokenizer, encode_chat).application()) as client:
        yield client


def scores_of(model, ids: list[int]) -> torch.Tensor:
    """The log-probability of each token at each place, (T, V)."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].log_softmax(-1)


def post(api: TestClient, path: str, **fields) -> dict:
    said = {"prompt": "the cat"} if path == COMPLETIONS else {"messages": HELLO}
    answer = api.post(
        path, json={"model": "tiny", "temperature": 0, "max_tokens": 8, "ignore_eos": True, **said, **fields}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def generated(model, ids: list[int], count: int) -> list[int]:
    return model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=count, eos_token_id=-1)[0].tolist()


def test_an_echo_has_the_log_probabilities_of_prompt_and_text(api, model, tokenizer):
    """What lm-eval asks `local-completions` for."""
    prompt = tokenizer("the cat is").input_ids
    ids = generated(model, prompt, 4)
    scores = scores_of(model, ids)
    for given in ("the cat is", prompt):
        choice = post(api, COMPLETIONS, prompt=given, echo=True, logprobs=3, max_tokens=4)
        table = choice["logprobs"]
        assert choice["text"] == tokenizer.decode(ids, skip_special_tokens=True)
        expected = [scores[place, id].item() for place, id in enumerate(ids[1:])]
        assert table["token_logprobs"][0] is table["top_logprobs"][0] is None
        assert table["token_logprobs"][1:] == pytest.approx(expected, abs=1e-4)
        assert len(table["tokens"]) == len(ids)
        for row, named, score in zip(scores, table["top_logprobs"][1:], table["token_logprobs"][1:], strict=False):
            assert sorted(named.values())[-3:] == pytest.approx(sorted(row.topk(3).values.tolist()), abs=1e-4)
            assert score in named.values()  # the token itself, too
        for token, offset in zip(table["tokens"], table["text_offset"], strict=True):
            if token.isascii():
                assert choice["text"].startswith(token, offset)


def test_an_echo_without_log_probabilities_is_the_text_and_comes_for_each_prompt(api):
    answer = api.post(COMPLETIONS, json={"model": "tiny", "prompt": ["the", "a cat"], "n": 2, "echo": True}).json()
    assert [choice["text"][:3] for choice in answer["choices"]] == ["the", "the", "a c", "a c"]
    assert {choice["logprobs"] for choice in answer["choices"]} == {None}
    stream = api.post(COMPLETIONS, json={"model": "tiny", "prompt": "the", "echo": True, "stream": True}).text
    assert json.loads(stream.split("\n\n")[0].removeprefix("data: "))["choices"][0]["text"] == "the"


def test_chat_has_log_probabilities_of_each_token_and_the_most_likely(api, model, tokenizer):
    prompt = encode_chat(tokenizer, HELLO, add_generation_prompt=True)["input_ids"]
    ids = generated(model, prompt, 8)
    scores = scores_of(model, ids)[len(prompt) - 1 : -1]
    content = post(api, CHAT, logprobs=True, top_logprobs=2)["logprobs"]["content"]
    assert [entry["logprob"] for entry in content] == pytest.approx(scores.max(-1).values.tolist(), abs=1e-4)
    for entry, row in zip(content, scores, strict=True):
        assert [each["logprob"] for each in entry["top_logprobs"]] == pytest.approx(
            row.topk(2).values.tolist(), abs=1e-4
        )
        if entry["bytes"] is not None:
            assert bytes(entry["bytes"]).decode() == entry["token"]
    assert "".join(entry["token"] for entry in content if entry["bytes"]) in tokenizer.decode(ids[len(prompt) :])


def test_log_probabilities_are_the_models_whatever_is_done_to_the_scores(api):
    """Under a bias of 100, each token is the one of that bias, with the probability that the model gave it."""
    (plain, *_) = post(api, CHAT, logprobs=True, top_logprobs=20, max_tokens=1)["logprobs"]["content"]
    forced = post(api, CHAT, logprobs=True, logit_bias={"70": 100}, max_tokens=1, temperature=1)["logprobs"]["content"][
        0
    ]
    assert forced["logprob"] < min(each["logprob"] for each in plain["top_logprobs"]) + 1e-4 or forced["token"] in [
        each["token"] for each in plain["top_logprobs"]
    ]
    assert forced["top_logprobs"] == []


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_the_pieces_of_a_stream_have_the_log_probabilities_of_the_whole(api, path):
    wanted = {"logprobs": 2} if path == COMPLETIONS else {"logprobs": True, "top_logprobs": 2}
    whole = post(api, path, **wanted)["logprobs"]
    said = {"prompt": "the cat"} if path == COMPLETIONS else {"messages": HELLO}
    body = {"model": "tiny", "temperature": 0, "max_tokens": 8, "ignore_eos": True, "stream": True, **said, **wanted}
    lines = [line for line in api.post(path, json=body).text.split("\n\n") if line and "[DONE]" not in line]
    pieces = [json.loads(line.removeprefix("data: "))["choices"][0]["logprobs"] or {} for line in lines]
    for name, column in whole.items():
        joined = [row for piece in pieces for row in piece.get(name, [])]
        assert len(joined) == len(column) == 8
        if name in ("tokens", "text_offset"):
            assert joined == column
        elif name == "content":
            assert [row["token"] for row in joined] == [row["token"] for row in column]


def test_no_log_probabilities_come_unasked(api):
    assert post(api, CHAT)["logprobs"] is None
    assert post(api, COMPLETIONS)["logprobs"] is None
    assert post(api, COMPLETIONS, logprobs=0)["logprobs"]["top_logprobs"][0].keys()  # the token alone
