"""A chat template that never ends, or writes without end, is one error, and the process goes on."""

import copy
import resource
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.testclient import TestClient

from foliogpt.modeling import FolioForCausalLM
from foliogpt.serving.openai_api import Api
from foliogpt.tokenization import encode_chat, template_limits, train_tokenizer
from foliogpt.tokenization.control_tokens import ChatEncoder

HELLO = [{"role": "user", "content": "the cat"}]
BAD = {
    "loop": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loop in a filter": "{{ lipsum(99999999) }}",
    "marked loop": "{% generation %}{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    "{% endgeneration %}",
    "recursion": "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "product": "{{ 'a' * 10000000000 }}",
    "product of a message": "{{ messages[0].content * 10000000000 }}",
    "power": "{{ 10 ** (messages|length * 1000000000) }}",
    "doubling": "{% set n = namespace(s='aa') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "width": "{{ 'a'.ljust(10000000000) }}",
    "format": "{{ '%10000000000d' % 1 }}",
    "replacement": "{% set s = 'a' * 99999 %}{{ s.replace('a', s) }}",
    "output": "{% set s = 'a' * 999999 %}{% for i in range(99) %}{{ s }}{% endfor %}",
    "division": "{{ 1 / 0 }}",
    "attribute": "{{ messages.a.b }}",
}


@pytest.fixture
def tokenizer():
    return train_tokenizer(["the cat is free"] * 20, vocab_size=265, show_progress=False)


@pytest.fixture
def less_time(monkeypatch):
    monkeypatch.setattr(template_limits, "SECONDS", 0.2)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux")
@pytest.mark.usefixtures("less_time")
@pytest.mark.parametrize("name", BAD)
def test_a_hostile_template_is_one_error_in_time_and_leaves_no_limit(tokenizer, name):
    before = resource.getrlimit(resource.RLIMIT_AS), sys.gettrace()
    tokenizer.chat_template = BAD[name]
    begun = time.monotonic()
    with pytest.raises(ValueError, match=r"The chat template .*[^\n]$"):
        encode_chat(tokenizer, HELLO)
    assert time.monotonic() - begun < 3
    assert (resource.getrlimit(resource.RLIMIT_AS), sys.gettrace()) == before


@pytest.mark.usefixtures("less_time")
def test_a_server_with_a_hostile_template_stays_alive(tiny, tokenizer):
    tokenizer.chat_template = BAD["loop"]
    api = Api("tiny", FolioForCausalLM(tiny(vocab_size=len(tokenizer))), tokenizer, encode_chat)
    with TestClient(api.application()) as client:
        for _ in range(2):
            answer = client.post("/v1/chat/completions", json={"model": "tiny", "messages": HELLO})
            assert (answer.status_code, "was not finished" in answer.json()["error"]["message"]) == (400, True)
        done = client.post("/v1/completions", json={"model": "tiny", "prompt": "the", "max_tokens": 1})
        assert done.status_code == 200


def test_threads_that_render_at_once_leave_no_limit(tokenizer):
    before = resource.getrlimit(resource.RLIMIT_AS)
    tokenizer.chat_template = "{% for i in range(2000) %}{{ messages[0].content }}{% endfor %}"
    encoders = [ChatEncoder(copy.deepcopy(tokenizer)) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda encoder: encoder.render(HELLO).text, encoders))
    assert texts == ["the cat" * 2000] * 8
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_another_thread_is_not_limited_in_time(tokenizer):
    traced = []
    with template_limits.template_limits("a"):
        thread = threading.Thread(target=lambda: traced.append(sys.gettrace()))
        thread.start()
        thread.join()
    assert traced == [None]
