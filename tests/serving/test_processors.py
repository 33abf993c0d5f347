"""Penalties, bias and schemas, against their formulas and against jsonschema."""

import json

import jsonschema
import pytest
import torch
from starlette.testclient import TestClient

from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.serving.openai_api import Api
from foliogpt.serving.processors import Structured, compiled, json_rule
from foliogpt.tokenization import encode_chat, train_char_tokenizer, train_tokenizer

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "the cat"}]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", 'b"', "ü"]}, "maxItems": 3},
        "boss": {"anyOf": [{"$ref": "#/$defs/boss"}, {"type": "null"}]},
    },
    "required": ["name", "age", "tags", "boss"],
    "additionalProperties": False,
    "$defs": {"boss": {"type": "object", "properties": {"id": {"type": "string", "pattern": "^[A-F]{2}[0-9]?$"}},
                       "required": ["id"], "additionalProperties": False}},
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the cat is free"] * 20, vocab_size=265, show_progress=False)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = preset_config(
        "folio", "nano", vocab_size=265, hidden_size=32, num_hidden_layers=2, intermediate_size=48,
        max_position_embeddings=1024, residual_init="normal", initializer_range=0.3, **ids
    )  # fmt: skip
    return FolioForCausalLM(config).eval()


@pytest.fixture(scope="module")
def api(model, tokenizer):
    with TestClient(Api("tiny", model, tokenizer, encode_chat).application()) as client:
        yield client


def complete(api: TestClient, **fields) -> str:
    answer = api.post(COMPLETIONS, json={"model": "tiny", "prompt": "the cat", "temperature": 0, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["text"]


def follow(api: TestClient, schema: dict | bool, **fields):
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return api.post(CHAT, json={"model": "tiny", "messages": HELLO, "response_format": wanted, **fields})


@pytest.mark.parametrize(
    "wanted",
    [{"frequency_penalty": 1.5}, {"presence_penalty": 2}, {"frequency_penalty": -0.5, "presence_penalty": 1.0},
     {"logit_bias": {"70": 3.5, "71": -100}, "presence_penalty": -1}],
    ids=str,
)  # fmt: skip
def test_penalties_and_bias_are_openais_formula(api, model, tokenizer, wanted):
    """mu[j] -> mu[j] - c[j] * frequency - (c[j] > 0) * presence, of the generated tokens alone; then the bias."""
    ids = tokenizer("the cat").input_ids
    count = len(ids)
    for _ in range(16):
        scores = model(torch.tensor([ids])).logits[0, -1]
        for token in set(ids[count:]):
            times = ids[count:].count(token)
            scores[token] -= times * wanted.get("frequency_penalty", 0) + wanted.get("presence_penalty", 0)
        for token, bias in wanted.get("logit_bias", {}).items():
            scores[int(token)] += bias
        ids.append(int(scores.argmax()))
    ends = {"ignore_eos": True, "max_tokens": 16}
    assert complete(api, **ends, **wanted) == tokenizer.decode(ids[count:], skip_special_tokens=True)
    assert complete(api, **ends, **wanted) != complete(api, **ends)


def test_each_text_of_a_request_is_penalized_for_its_own_tokens(api):
    asked = {"model": "tiny", "prompt": ["the cat", "free"], "n": 2, "temperature": 0, "max_tokens": 12}
    choices = api.post(COMPLETIONS, json={**asked, "presence_penalty": 2}).json()["choices"]
    alone = [complete(api, prompt=prompt, max_tokens=12, presence_penalty=2) for prompt in asked["prompt"]]
    assert [choice["text"] for choice in choices] == [alone[0], alone[0], alone[1], alone[1]]


def test_a_model_with_random_weights_writes_what_the_schema_allows(api):
    answer = follow(api, PERSON, n=8, temperature=1.5, seed=1, max_tokens=400).json()
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"stop"}
    for choice in answer["choices"]:
        jsonschema.validate(json.loads(choice["message"]["content"]), PERSON)


@pytest.mark.parametrize("times", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_random_scores_become_valid_json_each_time(tokenizer, times):
    generator = torch.Generator().manual_seed(0)
    matcher = compiled(f"start: {json_rule(PERSON)}", tokenizer, 265, [tokenizer.eos_token_id])
    for _ in range(times):
        processor, ids = Structured(matcher.deep_copy(), 1), [5]
        while ids[-1] != tokenizer.eos_token_id:
            scores = torch.randn(1, 265, generator=generator)
            ids.append(int(processor(torch.tensor([ids]), scores).argmax()))
        jsonschema.validate(json.loads(tokenizer.decode(ids[1:], skip_special_tokens=True)), PERSON)
        assert not processor.failure


def test_a_json_object_and_a_streamed_one_are_valid(api):
    """Unbounded strings may not end in time: then the reason is length."""
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 300, "temperature": 1, "logit_bias": {}}
    answer = api.post(CHAT, json={**body, "response_format": {"type": "json_object"}, "n": 8, "seed": 0}).json()
    for choice in answer["choices"]:
        assert choice["message"]["content"].startswith("{")
        if choice["finish_reason"] == "stop":
            assert isinstance(json.loads(choice["message"]["content"]), dict)
    lines = follow(api, PERSON, stream=True, seed=3, temperature=1, max_tokens=400).text.split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line and "[DONE]" not in line]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    jsonschema.validate(json.loads(text), PERSON)


def test_the_schema_wins_over_what_forbids_all_that_it_allows(api):
    answer = follow(api, {"enum": [7]}, min_tokens=20, max_tokens=30).json()
    assert answer["choices"][0]["message"]["content"].strip() == "7"


def chain(length: int) -> dict:
    links = {f"d{i}": {"properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}}} for i in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": {**links, f"d{length}": {}}}


def nested(depth: int) -> dict:
    schema: dict = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [False, {"type": "wizard"}, {"$ref": "http://192.0.2.1/x.json"}, {"$ref": "#/nowhere"}, {"pattern": "(?=a)b"},
     {"type": "integer", "multipleOf": 99999989}, chain(50_000),
     {"enum": [f"v{i}" for i in range(50_000)]},
     {"allOf": [{"anyOf": [{"properties": {f"k{i}{j}": {"type": "integer"}}} for j in range(10)]} for i in range(10)]}],
    ids=lambda schema: str(schema)[:40],
)  # fmt: skip
def test_a_schema_that_cannot_be_followed_is_the_clients_error(api, schema):
    answer = follow(api, schema, max_tokens=3)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "response_format"), error
    assert "\n" not in error["message"]


@pytest.mark.parametrize(
    "schema",
    [chain(1500), nested(90), {"type": "string", "pattern": r"\w?" * 4000}, {"type": "string", "pattern": "(a*)*b"}],
)
def test_a_schema_that_takes_much_ends_no_process(api, schema):
    assert follow(api, schema, max_tokens=3).status_code in (200, 400)
    assert complete(api)


def test_a_tokenizer_whose_tokens_are_no_bytes_is_refused(tiny):
    tokenizer = train_char_tokenizer(["the cat is free"])
    model = FolioForCausalLM(tiny(vocab_size=len(tokenizer)))
    with TestClient(Api("tiny", model, tokenizer, encode_chat).application()) as api:
        body = {"model": "tiny", "prompt": "the", "response_format": {"type": "json_object"}}
        answer = api.post(COMPLETIONS, json=body)
    assert (answer.status_code, "tokenizer" in answer.json()["error"]["message"]) == (400, True)
