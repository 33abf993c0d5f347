"""A chat template that never ends, or writes without end, is one error, and the process continues."""

import copy
import multiprocessing
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.testclient import TestClient
from transformers.utils.chat_template_utils import render_jinja_template

from foliogpt.jobs import limited_process
from foliogpt.modeling import FolioForCausalLM
from foliogpt.serving.openai_api import Api
from foliogpt.tokenization import encode_chat, template_limits, train_tokenizer
from foliogpt.tokenization.special_tokens import ChatEncoder

HELLO = [{"role": "user", "content": "the cat"}]
NESTED = "{% set n = namespace(a=(0,), b=(0,)) %}{% for i in range(60) %}{% set n.a = (n.a, n.a) %}{% endfor %}"
BAD = {
    "loop": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loop in a filter": "{{ lipsum(99999999) }}",
    "marked loop": "{% generation %}{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    "{% endgeneration %}",
    "recursion": "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "product": "{{ 'a' * 10000000000 }}",
    "product of a message": "{{ messages[0].content * 10000000000 }}",
    "power": "{{ 10 ** (messages|length * 1000000000) }}",
    "power in a filter": "{{ 1.0|round(1000000000, 'ceil') }}",
    "powers of products": "{% set n = namespace(a=99) %}{% for i in range(60) %}{% set n.a = n.a * n.a %}{% endfor %}",
    "doubling": "{% set n = namespace(s='aa') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "width": "{{ 'a'.ljust(10000000000) }}",
    "format": "{{ '%10000000000d' % 1 }}",
    "replacement": "{% set s = 'a' * 99999 %}{{ s.replace('a', s) }}",
    "join": "{% set s = ['a' * 1000] * 99999 %}{{ s|join(s|join('b')) }}",
    "wrapped words": "{{ ('a ' * 4999999)|wordwrap(1) }}",
    "hash": NESTED + "{{ {n.a: 1} }}",
    "comparison": NESTED + NESTED.replace("n.a", "n.b").partition("%}")[2] + "{{ n.a == n.b }}",
    "nested list as text": NESTED + "{{ n.a|tojson }}",
    "output": "{% set s = 'a' * 999999 %}{% for i in range(99) %}{{ s }}{% endfor %}",
    "error": "{{ raise_exception('a' * 99999999) }}",
    "division": "{{ 1 / 0 }}",
    "attribute": "{{ messages.a.b }}",
}


@pytest.fixture
def tokenizer():
    return train_tokenizer(["the cat is free"] * 20, vocab_size=265, show_progress=False)


@pytest.fixture
def less_time(monkeypatch):
    monkeypatch.setattr(template_limits, "SECONDS", 0.4)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux")
@pytest.mark.usefixtures("less_time")
@pytest.mark.parametrize("name", BAD)
def test_a_hostile_template_is_one_short_error_in_time(tokenizer, name):
    _rendered("cat")  # starts the process
    tokenizer.chat_template = BAD[name]
    begun = time.monotonic()
    with pytest.raises(ValueError, match=r"^The chat template .{1,1000}$"):
        encode_chat(tokenizer, HELLO)
    assert time.monotonic() - begun < 3


@pytest.mark.usefixtures("less_time")
def test_a_server_with_a_hostile_template_stays_alive(tiny, tokenizer):
    tokenizer.chat_template = BAD["loop"]
    api = Api("tiny", FolioForCausalLM(tiny(vocab_size=len(tokenizer))), tokenizer, encode_chat)
    with TestClient(api.application()) as client:
        for _ in range(2):
            answer = client.post("/v1/chat/completions", json={"model": "tiny", "messages": HELLO})
            assert answer.status_code == 400
            assert "takes more than 0.4 seconds" in answer.json()["error"]["message"]
        done = client.post("/v1/completions", json={"model": "tiny", "prompt": "the", "max_tokens": 1})
        assert done.status_code == 200


def test_limits_change_nothing_that_is_rendered():
    template = (
        "{% for m in messages %}{{ m.role|upper }}: {% generation %}{{ m.content|tojson }}{% endgeneration %}"
        "{{ tools|tojson }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    chats = [
        [{"role": "user", "content": "é\ue000<|x|> \ud800 '\""}, {"role": "assistant", "content": {"a": [1.5, None]}}]
    ]
    options = {
        "tools": [{"type": "function", 1: (2, float("inf"))}], "chat_template": template, "eos_token": "<eos>",
        "add_generation_prompt": True, "return_assistant_tokens_mask": True,
    }  # fmt: skip
    assert template_limits.render_with_limits(chats, **options) == render_jinja_template(chats, **options)


def test_threads_and_forks_render_at_once(tokenizer):
    tokenizer.chat_template = "{% for i in range(2000) %}{{ messages[0].content }}{% endfor %}"
    encoders = [ChatEncoder(copy.deepcopy(tokenizer)) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda encoder: encoder.render(HELLO).text, encoders))
    assert texts == ["the cat" * 2000] * 8
    if sys.platform == "linux":
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(_rendered, [f"cat {i}" for i in range(20)]) == [f"cat {i}." for i in range(20)]


def _rendered(text: str) -> str:
    messages = [{"role": "user", "content": text}]
    (text,), _ = template_limits.render_with_limits([messages], chat_template="{{ messages[0].content }}.")
    return text


def test_an_interrupted_chat_does_not_answer_the_next(monkeypatch):
    _rendered("cat")
    with monkeypatch.context() as patch:
        patch.setattr(limited_process.pickle, "load", lambda file: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            _rendered("first")
    assert _rendered("second") == "second."
