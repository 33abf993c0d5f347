"""The API with unusual models; `tests/scripts/test_serve.py` has the rest."""

import asyncio
import collections
import contextlib
import copy
import gc
import importlib
import json
import re
import socket
import statistics
import struct
import sys
import threading
import time
import weakref
from collections.abc import Iterator

import pytest
import torch
import uvicorn
from starlette.testclient import TestClient

from foliogpt.modeling import FolioForCausalLM
from foliogpt.serving.generator import Choice
from foliogpt.serving.openai_api import Api
from foliogpt.tokenization import encode_chat, train_tokenizer

HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "the cat"}], "max_tokens": 5}


@pytest.fixture
def tokenizer():
    return train_tokenizer(["the cat is free"] * 20, vocab_size=265, show_progress=False)


@pytest.fixture
def model(tiny, tokenizer):
    return FolioForCausalLM(tiny(vocab_size=len(tokenizer)))


def open_api(model, tokenizer) -> TestClient:
    return TestClient(Api("tiny", model, tokenizer, encode_chat).application(), raise_server_exceptions=False)


@contextlib.contextmanager
def served(api: Api) -> Iterator[int]:
    """The API on a port, in a thread of this process."""
    server = uvicorn.Server(uvicorn.Config(api.application(), log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as bound:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield bound.getsockname()[1]
        finally:
            api.generator.stop()
            server.should_exit = True
            thread.join()


def test_best_of_returns_the_texts_whose_tokens_are_most_likely_on_average(model, tokenizer):
    api = open_api(model, tokenizer)
    body = {"model": "tiny", "prompt": ["the", "a cat"], "max_tokens": 6, "seed": 3, "temperature": 1, "top_k": 0}
    every = api.post("/v1/completions", json={**body, "n": 5, "logprobs": 1}).json()
    best = api.post("/v1/completions", json={**body, "n": 2, "best_of": 5}).json()
    means = [statistics.mean(choice["logprobs"]["token_logprobs"]) for choice in every["choices"]]
    places = [*sorted(range(5), key=lambda i: -means[i])[:2], *sorted(range(5, 10), key=lambda i: -means[i])[:2]]
    assert [choice["text"] for choice in best["choices"]] == [every["choices"][i]["text"] for i in places]
    assert places != sorted(places), "the first ones are the best by chance"
    assert [choice["index"] for choice in best["choices"]] == [0, 1, 2, 3]
    assert {choice["logprobs"] for choice in best["choices"]} == {None}
    assert best["usage"] == every["usage"]
    streamed = api.post("/v1/completions", json={**body, "best_of": 2, "stream": True})
    assert (streamed.status_code, streamed.json()["error"]["param"]) == (400, "best_of")
    assert api.post("/v1/completions", json={**body, "best_of": 129}).status_code == 400


@pytest.mark.parametrize("streamed", [True, False])
def test_generation_stops_when_the_client_goes(tiny, tokenizer, monkeypatch, streamed):
    model = FolioForCausalLM(tiny(vocab_size=len(tokenizer), max_position_embeddings=50_000))
    api = Api("tiny", model, tokenizer, encode_chat)
    begun = []
    stream = api.generator.stream
    monkeypatch.setattr(api.generator, "stream", lambda choice: begun.append(choice) or stream(choice))
    wanted = {"model": "tiny", "prompt": "the", "n": 3, "max_tokens": 49_000, "stream": streamed}
    body = json.dumps(wanted).encode()
    with served(api) as port:
        with socket.create_connection(("127.0.0.1", port)) as client:
            head = "POST /v1/completions HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            while not (begun and begun[0].tokens):
                time.sleep(0.01)
        while api.generator.unfinished:
            time.sleep(0.01)
        api.generator.thread.submit(int).result()  # it has nothing else to do
        assert len(begun) == 3
        assert max(choice.tokens for choice in begun) < 49_000, "a text went on to its end"


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_api_keeps_nothing_of_three_hundred_clients_that_disconnect(tiny, tokenizer, monkeypatch, path):
    model = FolioForCausalLM(tiny(vocab_size=len(tokenizer), max_position_embeddings=50_000))
    api = Api("tiny", model, tokenizer, encode_chat)
    begun, loops, stream = weakref.WeakSet(), set(), api.generator.stream
    seen = collections.Counter()

    def recorded(choice):
        begun.add(choice)
        seen["choices"] += 1
        loops.add(asyncio.get_running_loop())
        return stream(choice)

    monkeypatch.setattr(api.generator, "stream", recorded)

    def request(streamed: bool, max_tokens: int) -> bytes:
        said = {"messages": HELLO["messages"]} if "chat" in path else {"prompt": "the"}
        wanted = {"model": "tiny", "n": 2, "max_tokens": max_tokens, "ignore_eos": True, "stream": streamed, **said}
        body = json.dumps(wanted).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def left() -> tuple[int, int, int, int, int]:
        gc.collect()
        (loop,) = loops
        waiting = api.generator.thread._work_queue.qsize() + api.encoder._work_queue.qsize()
        tasks, unfinished = len(asyncio.all_tasks(loop)), len(api.generator.unfinished)
        return tasks, threading.active_count(), unfinished, waiting, len(begun)

    with served(api) as port:

        def connect(request: bytes) -> socket.socket:
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(request)
            return client

        def whole() -> None:
            with connect(request(True, 2)) as client:
                while b"[DONE]" not in client.recv(2**16):
                    pass

        whole()
        time.sleep(0.2)
        before = left()
        clients = [connect(request(streamed=not index % 2, max_tokens=49_000)) for index in range(300)]
        while seen["choices"] < 150 or not any(choice.tokens for choice in begun):  # most wait for their first token
            time.sleep(0.01)
        is_more = [now > then for now, then in zip(left(), before, strict=True)]
        assert is_more == [True, False, True, True, True]  # the threads are the same
        for index, client in enumerate(clients):
            if index % 3 == 0:  # without a farewell
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        ends = time.monotonic() + 20
        while left() != before and time.monotonic() < ends:
            time.sleep(0.05)
        assert left() == before
        whole()


def test_the_stop_strings_of_the_checkpoint_hold_too(model, tokenizer):
    (token,) = tokenizer("x").input_ids
    model.generation_config.update(sequence_bias=[[[token], 1000.0]], stop_strings="xx")  # it says nothing else
    with open_api(model, tokenizer) as api:
        (choice,) = api.post("/v1/completions", json={"model": "tiny", "prompt": "the"}).json()["choices"]
        assert (choice["text"], choice["finish_reason"]) == ("", "stop")
        (choice,) = api.post("/v1/completions", json={"model": "tiny", "prompt": "a", "stop": "x"}).json()["choices"]
        assert (choice["text"], choice["finish_reason"]) == ("", "stop")


def complete(api: TestClient, **fields) -> dict:
    answer = api.post("/v1/completions", json={"model": "tiny", "prompt": "the", **fields})
    assert answer.status_code == 200, answer.text
    choice, *_ = answer.json()["choices"]
    return choice | {"tokens": answer.json()["usage"]["completion_tokens"]}


def test_fields_of_vllm_and_llama_cpp_do_what_they_do_there(model, tokenizer):
    """Those of `generate` must arrive in its config, under whichever name; those of ours must change the text."""
    configs = []
    served = Api("tiny", model, tokenizer, encode_chat)
    stream = served.generator.stream
    served.generator.stream = lambda choice: configs.append(choice.config) or stream(choice)
    with TestClient(served.application()) as api:
        sampled = {"top_k": 5, "min_p": 0.1, "typical_p": 0.9, "repetition_penalty": 1.2, "min_tokens": 2}
        complete(api, max_tokens=3, **sampled)
        complete(api, max_tokens=3, top_k=-1, repeat_penalty=1.5)
        complete(api, max_tokens=3, repetition_penalty=1.5)
        greedy = [complete(api, max_tokens=8, temperature=0, **more)["text"] for more in ({}, {"top_k": 3, "min_p": 1})]
        assert greedy[0] == greedy[1] == complete(api, max_tokens=8, top_p=0)["text"]
        assert greedy[0] == complete(api, max_tokens=8, top_k=1)["text"]
        lengths = [
            complete(api, **{name: 7}, min_tokens=7)["tokens"] for name in ("max_completion_tokens", "n_predict")
        ]
        drawn = {complete(api, max_tokens=12, temperature=2, seed=-1)["text"] for _ in range(3)}
        fixed = {complete(api, max_tokens=12, temperature=2, seed=-7)["text"] for _ in range(3)}
    names = ["top_k", "min_p", "typical_p", "repetition_penalty", "min_new_tokens", "do_sample"]
    assert [getattr(configs[0], name) for name in names] == [5, 0.1, 0.9, 1.2, 2, True]
    assert [getattr(configs[1], name) for name in ("top_k", "repetition_penalty", "do_sample")] == [0, 1.5, True]
    assert configs[2].do_sample is not True  # a penalty alone draws nothing
    assert lengths == [7, 7]
    assert (len(drawn), len(fixed)) == (3, 1)


# Bodies that Open WebUI sends (its routers/openai.py and utils/payload.py): a chat with every advanced parameter of its
# form, a chat with a tool, and the task that names a chat.
OPEN_WEBUI = {
    "chat": {
        "stream": True, "model": "tiny", "stream_options": {"include_usage": True},
        "messages": [
            {"role": "system", "content": "Be a cat."}, *HELLO["messages"], {"role": "assistant", "content": "three"},
            {"role": "user", "content": [{"type": "text", "text": "one"}]},
        ],
        "temperature": 0.8, "top_p": 0.9, "min_p": 0.0, "max_tokens": 5, "frequency_penalty": 1.1,
        "presence_penalty": 0.0, "reasoning_effort": "low", "seed": 1, "stop": ["\n"], "logit_bias": {"70": -100},
        "response_format": {"type": "text"}, "top_k": 40, "repeat_penalty": 1.1, "num_ctx": 2048, "num_keep": 24,
        "repeat_last_n": 64, "keep_alive": "5m", "think": False, "function_calling": "default",
        "user": {"name": "Ann", "id": "1", "email": "ann@example.com", "role": "admin"},
    },
    "tools": {
        "stream": True, "model": "tiny", "messages": HELLO["messages"], "max_tokens": 5,
        "tools": [{"type": "function", "function": {"name": "t", "parameters": {"type": "object"}}}],
    },
    "title": {"stream": False, "model": "tiny", "messages": HELLO["messages"], "max_completion_tokens": 5},
}  # fmt: skip


@pytest.mark.parametrize("body", OPEN_WEBUI.values(), ids=OPEN_WEBUI)
def test_requests_of_open_webui_are_answered(tiny, tokenizer, body):
    model = FolioForCausalLM(tiny(vocab_size=len(tokenizer), max_position_embeddings=1024))
    with open_api(model, tokenizer) as api:
        assert [model["id"] for model in api.get("/v1/models").json()["data"]] == ["tiny"]
        answer = api.post("/v1/chat/completions", json=body, headers={"X-OpenWebUI-User-Name": "Ann"})
    assert answer.status_code == 200, answer.text
    if not body["stream"]:
        assert answer.json()["usage"]["completion_tokens"] <= 5
        return
    *chunks, last = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert last == "[DONE]"
    chunks = [json.loads(chunk) for chunk in chunks]
    assert "error" not in chunks[-1]
    if "stream_options" in body:
        assert 0 < chunks[-1]["usage"]["completion_tokens"] <= 5


def test_max_tokens_of_minus_one_fills_the_context(model, tokenizer):
    with open_api(model, tokenizer) as api:
        room = 64 - len(tokenizer("the").input_ids)
        for fields in ({"max_tokens": -1, "ignore_eos": True}, {"max_tokens": room, "min_tokens": room}):
            assert complete(api, **fields)["tokens"] == room


def test_the_ends_of_a_text_are_those_that_were_asked_for(model, tokenizer):
    x, y = (tokenizer(letter).input_ids[0] for letter in "xy")
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    with open_api(model, tokenizer) as api:
        for end in ends:
            model.generation_config.sequence_bias = [[[end], 1000.0]]  # it says nothing else
            chat = {**HELLO, "temperature": 0, "ignore_eos": True}
            (choice,) = api.post("/v1/chat/completions", json=chat).json()["choices"]
            assert choice["finish_reason"] == "length"
        model.generation_config.sequence_bias = [[[x], 1000.0], [[y], 999.0]]
        stopped = complete(api, stop_token_ids=[x])
        assert (stopped["text"], stopped["finish_reason"], stopped["tokens"]) == ("", "stop", 1)
        stopped = complete(api, stop_token_ids=[x], ignore_eos=True, min_tokens=3)
        assert (stopped["text"], stopped["tokens"]) == ("yyy", 4)
        stopped = complete(api, stop=[*map(str, range(9)), "xx"], min_tokens=3)
        assert (stopped["text"], stopped["finish_reason"]) == ("xxx", "stop")


def test_an_unknown_field_is_named_once_in_the_log_and_an_unsupported_one_is_refused(model, tokenizer, caplog):
    with open_api(model, tokenizer) as api:
        for _ in range(2):
            complete(api, max_tokens=1, trust_remote_code=True, samplers=["top_k"])
        refused = api.post("/v1/completions", json={"model": "tiny", "prompt": "the", "use_beam_search": True})
    (line,) = [record.getMessage() for record in caplog.records if "does not know" in record.getMessage()]
    assert "['samplers', 'trust_remote_code']" in line
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "use_beam_search")


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused_where_it_matters(tiny, tokenizer):
    """A token was added and the model's embeddings were not resized; on a GPU its id would end every later request."""
    model = FolioForCausalLM(tiny(vocab_size=len(tokenizer)))
    tokenizer.add_tokens("zebra")
    with open_api(model, tokenizer) as api:
        for path, said in (
            ("/v1/completions", {"prompt": "a zebra"}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a zebra"}]}),
        ):
            answer = api.post(path, json={"model": "tiny", "max_tokens": 1, **said})
            assert (answer.status_code, "not in the vocabulary" in answer.text) == (400, True)
        assert api.post("/v1/completions", json={"model": "tiny", "prompt": "the"}).status_code == 200


def test_a_base_model_that_chats_stops_at_the_end_of_its_turn(model, tokenizer):
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.sequence_bias = [[[end], 1000.0]]  # it says nothing else
    with open_api(model, tokenizer) as api:
        answer = api.post("/v1/chat/completions", json=HELLO).json()
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["choices"][0]["message"]["content"] == ""
        assert answer["usage"]["completion_tokens"] == 1
        text = api.post("/v1/completions", json={"model": "tiny", "prompt": "the", "max_tokens": 5}).json()
        assert (text["choices"][0]["finish_reason"], text["usage"]["completion_tokens"]) == ("length", 5)


def test_a_model_without_a_chat_template_says_so_and_completes(model, tokenizer):
    tokenizer.chat_template = None
    with open_api(model, tokenizer) as api:
        answer = api.post("/v1/chat/completions", json=HELLO)
        assert answer.status_code == 400
        assert "no chat template" in answer.json()["error"]["message"]
        assert api.post("/v1/completions", json={"model": "tiny", "prompt": "the"}).status_code == 200


def test_a_template_that_refuses_the_messages_is_the_clients_error(model, tokenizer):
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with open_api(model, tokenizer) as api:
        answer = api.post("/v1/chat/completions", json=HELLO)
        assert (answer.status_code, "roles must alternate" in answer.json()["error"]["message"]) == (400, True)


def test_after_an_error_of_the_server_the_next_request_is_served(model, tokenizer, monkeypatch):
    with open_api(model, tokenizer) as api:
        with monkeypatch.context() as patch:
            patch.setattr(model, "forward", lambda *args, **kwargs: torch.zeros(1) @ torch.zeros(2))
            answer = api.post("/v1/chat/completions", json=HELLO)
            assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
            stream = api.post("/v1/chat/completions", json={**HELLO, "stream": True}).text
            assert '"server_error"' in stream
            assert "[DONE]" not in stream
        assert api.get("/health").json() == {"status": "ok", "unfinished": 0}
        assert api.post("/v1/chat/completions", json=HELLO).status_code == 200


@pytest.mark.parametrize("why", ["layers are recurrent", "generation_config.json"])
def test_log_probabilities_of_a_model_that_cannot_be_batched_are_rejected(model, tokenizer, why):
    model = copy.deepcopy(model)
    api = Api("tiny", model, tokenizer, encode_chat)
    if "layers" in why:
        api.generator.batch.fault = "this model's layers are recurrent"
    else:
        model.generation_config.cache_implementation = "static"
    with TestClient(api.application()) as client:
        for path, fields in (("completions", {"prompt": "a", "logprobs": 1}), ("chat/completions", {"logprobs": True})):
            body = {**HELLO, **fields} if "chat" in path else {"model": "tiny", **fields}
            answer = client.post(f"/v1/{path}", json=body)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "logprobs")
            assert why in answer.json()["error"]["message"]


def test_when_too_many_wait_the_next_is_told_to_come_later(model, tokenizer, monkeypatch):
    monkeypatch.setattr("foliogpt.serving.openai_api.MAX_WAITING", 0)
    with open_api(model, tokenizer) as api:
        answer = api.post("/v1/chat/completions", json=HELLO)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "5")


SAMPLE = re.compile(r'(folio_[a-z_]+)(?:\{([a-z]+="[^"]*"(?:,[a-z]+="[^"]*")*)\})? ([0-9.e+-]+)')


def metrics_of(api: TestClient) -> dict[str, float]:
    """The samples of /metrics, each of which has Prometheus' form and comes after the type of its family."""
    answer = api.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    *lines, end = answer.text.split("\n")
    assert end == ""
    family, samples = "", {}
    for line in lines:
        if found := re.fullmatch(r"# TYPE (folio_[a-z_]+) (counter|gauge|summary)", line):
            family = found[1]
        else:
            assert line.startswith(family)
            samples[line.rpartition(" ")[0]] = float(SAMPLE.fullmatch(line)[3])
    return samples


def test_metrics_count_requests_tokens_and_first_tokens(model, tokenizer):
    with open_api(model, tokenizer) as api:
        before = metrics_of(api)
        assert (before["folio_texts_running"], before["folio_texts_waiting"]) == (0, 0)
        length = len(tokenizer("the").input_ids)
        for _ in range(2):
            complete(api, max_tokens=5, ignore_eos=True, n=2)
        api.post("/v1/completions", json={"model": "tiny", "prompt": ""})
        api.post("/v1/completions", json={"model": "tiny", "prompt": "the", "max_tokens": 1, "stream": True})
        api.post("/v1/chat/completions", json={"model": "gpt2", "messages": []})
        after = metrics_of(api)
    assert after['folio_requests_total{endpoint="/v1/completions",status="200"}'] == 3
    assert after['folio_requests_total{endpoint="/v1/completions",status="400"}'] == 1
    assert after['folio_requests_total{endpoint="/v1/chat/completions",status="400"}'] == 1
    assert after['folio_requests_total{endpoint="/metrics",status="200"}'] == 1
    assert after["folio_prompt_tokens_total"] == 5 * length
    assert after["folio_generated_tokens_total"] == 21
    assert after["folio_first_token_seconds_count"] == 5
    assert 0 < after["folio_first_token_seconds_sum"] < 60


def test_metrics_tell_running_texts_from_waiting_ones(model, tokenizer, monkeypatch):
    api = Api("tiny", model, tokenizer, encode_chat)
    running, waiting = (Choice([5], model.generation_config) for _ in range(2))
    running.tokens = 1
    with TestClient(api.application()) as client:
        monkeypatch.setattr(api.generator, "unfinished", {running, waiting})
        samples = metrics_of(client)
    assert (samples["folio_texts_running"], samples["folio_texts_waiting"]) == (1, 1)


def test_without_its_packages_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    monkeypatch.delitem(sys.modules, "foliogpt.serving.openai_api")
    with pytest.raises(ImportError, match=r"needs starlette: pip install 'foliogpt\[serve\]'"):
        importlib.import_module("foliogpt.serving.openai_api")
