"""The Responses API, by the real `openai` client, and by the bodies that other clients send."""

import json
from typing import Literal

import openai
import pytest
import torch
from pydantic import BaseModel

from foliogpt.modeling import FolioForCausalLM
from foliogpt.serving.openai_api import Api
from foliogpt.tokenization import encode_chat, train_tokenizer

SCHEMA = {"type": "object", "properties": {"x": {"enum": [1, 2]}}, "required": ["x"], "additionalProperties": False}
ADD = {"type": "function", "name": "add", "description": "Add.", "parameters": SCHEMA, "strict": True}
CALL = {"type": "function_call", "call_id": "call_1", "name": "add", "arguments": '{"x": 1}'}
RESULT = {"type": "function_call_output", "call_id": "call_1", "output": "2"}
GREEDY = {"model": "tiny", "temperature": 0, "max_output_tokens": 8}


class Answer(BaseModel):
    x: Literal[1, 2]


@pytest.fixture(scope="module")
def api(tiny_config):
    tokenizer = train_tokenizer(["the cat is free"] * 200, vocab_size=265, show_progress=False)
    torch.manual_seed(0)
    fields = {"vocab_size": len(tokenizer), "max_position_embeddings": 2000, "initializer_range": 0.5}
    model = FolioForCausalLM(tiny_config(**fields)).eval()
    model.generation_config.suppress_tokens = tokenizer.all_special_ids
    return Api("tiny", model, tokenizer, encode_chat)


def test_response_is_the_answer_of_the_chat_with_the_same_messages(client):
    response = client.responses.create(**GREEDY, input="the cat", instructions="Be kind.")
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "the cat"}]
    chat = client.chat.completions.create(model="tiny", messages=messages, temperature=0, max_tokens=8)
    assert response.output_text == chat.choices[0].message.content != ""
    assert (response.usage.input_tokens, response.usage.output_tokens) == (chat.usage.prompt_tokens, 8)
    assert response.status == response.output[0].status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize(
    "wanted",
    [
        {"input": "the cat"},
        {"input": "the cat", "top_logprobs": 2},
        {"input": "the cat", "include": ["message.output_text.logprobs"]},
        {"input": "the cat", "tools": [ADD]},
        {"input": "the cat", "tools": [ADD], "tool_choice": "required", "max_output_tokens": 200},
        {"input": "the cat", "text": {"format": {"type": "json_object"}}},
    ],
    ids=lambda wanted: "-".join(wanted),
)
def test_stream_ends_with_the_complete_response_and_its_pieces_add_up_to_it(client, wanted):
    whole = client.responses.create(**{**GREEDY, **wanted})
    events = list(client.responses.create(**{**GREEDY, **wanted}, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    last = events[-1]
    assert last.type == f"response.{whole.status}"

    def said(response) -> list:
        return [item.model_dump(exclude={"id", "call_id"}) for item in response.output]

    assert said(last.response) == said(whole)
    assert last.response.usage == whole.usage
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert [item.id for item in done] == [item.id for item in last.response.output]
    text = [event for event in events if event.type == "response.output_text.delta"]
    assert "".join(event.delta for event in text) == whole.output_text
    scores = [score.logprob for item in whole.output if item.type == "message" for score in item.content[0].logprobs]
    assert [score.logprob for event in text for score in event.logprobs] == scores
    assert len(scores) == (8 if {"top_logprobs", "include"} & wanted.keys() else 0)


def test_helpers_of_the_client_read_text_calls_and_schemas(client, api, monkeypatch):
    monkeypatch.setattr(api.generator.model.generation_config, "suppress_tokens", None)  # a text must end
    with client.responses.stream(model="tiny", input="the cat", text_format=Answer) as stream:
        assert stream.get_final_response().output_parsed.x in (1, 2)
    assert client.responses.parse(model="tiny", input="the cat", text_format=Answer).output_parsed.x in (1, 2)
    with client.responses.stream(
        model="tiny", input="the cat", tools=[ADD], tool_choice={"type": "function", "name": "add"}
    ) as stream:
        (call,) = stream.get_final_response().output
    assert json.loads(call.arguments)["x"] in (1, 2)
    assert (call.name, call.status) == ("add", "completed")


def test_calls_and_results_are_those_of_a_chat(api, client, monkeypatch):
    seen, encode = [], api._encode_messages
    monkeypatch.setattr(api, "_encode_messages", lambda wanted: seen.append(encode(wanted)) or seen[-1])
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"x": 1}'}}
    tool = {"type": "function", "function": {name: value for name, value in ADD.items() if name != "type"}}
    other = {**call, "id": "call_2"}
    messages = [
        {"role": "user", "content": "Add."},
        {"role": "assistant", "content": "I do.", "tool_calls": [call, other]},
        {"role": "tool", "tool_call_id": "call_1", "content": "2"},
        {"role": "tool", "tool_call_id": "call_2", "content": "3"},
    ]
    client.chat.completions.create(model="tiny", messages=messages, tools=[tool], max_tokens=1)
    said = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant"}
    said["content"] = [{"type": "output_text", "text": "I do.", "annotations": []}]
    asked = {"role": "user", "content": [{"type": "input_text", "text": "Add."}]}
    parts = [{"type": "input_text", "text": "3"}]
    items = [asked, said, CALL, {**CALL, "call_id": "call_2", "id": "fc_2", "status": "completed"}, RESULT]
    items.append({**RESULT, "call_id": "call_2", "output": parts})
    client.responses.create(**GREEDY, input=items, tools=[ADD])
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    "body",
    [
        {"include": [], "input": [{"content": "Hi", "role": "user"}], "instructions": "Be brief.", "tools": []},
        {"input": [{"role": "user", "content": "Hi"}], "tool_choice": "auto", "tools": [ADD], "stream": False},
        {"input": [{"content": "Hi", "role": "user", "type": "message"}], "parallel_tool_calls": False, "tools": [ADD]},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}, CALL, RESULT], "tools": [ADD]},
        {"input": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}], "store": False},
    ],
    ids=["openai-agents", "pydantic-ai", "langchain", "vercel", "codex"],
)
def test_bodies_that_clients_send_are_answered(http, body):
    response = http.post("/v1/responses", json={"model": "tiny", "max_output_tokens": 3, **body})
    assert response.status_code == 200, response.text
    (message,) = response.json()["output"]
    assert message["content"][0]["annotations"] == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": 3}, "input"),
        ({"input": []}, "input"),
        ({"input": [3]}, "input"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "a"}]}]}, "input.0.content"),
        ({"input": [{**CALL, "arguments": 3, "name": "a b"}]}, "input.0.tool_calls.0"),
        ({"input": "a", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "a", "background": True}, "background"),
        ({"input": "a", "tools": [{"type": "web_search"}]}, "tools.0"),
        ({"input": "a", "tools": [3]}, "tools.0"),
        ({"input": "a", "tool_choice": {"type": "allowed_tools", "tools": []}}, "tool_choice"),
        ({"input": "a", "text": 3}, "text"),
        ({"input": "a", "text": {"format": {"type": "json_schema"}}}, "text"),
        ({"input": "a", "n": 2}, "n"),
        ({"input": "a", "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "a", "max_tokens": 3}, "max_tokens"),
        ({"input": "a", "response_format": {"type": "json_object"}}, "response_format"),
        ({"input": "a", "prompt": {"id": "pmpt_1"}}, "prompt"),
    ],
)
def test_bad_body_is_the_clients_error_with_the_name_of_the_field(http, body, param):
    response = http.post("/v1/responses", json={"model": "tiny", **body})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_an_error_in_mid_stream_reaches_the_client(client, api, monkeypatch):
    def generate(choice, emit) -> None:
        emit("a")
        raise RuntimeError("broken")

    monkeypatch.setattr(api.generator, "_generate", generate)
    with pytest.raises(openai.APIError, match="An error in the server"):
        list(client.responses.create(**GREEDY, input="the cat", stream=True))
