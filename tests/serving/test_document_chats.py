"""Chats that are answered from documents, by the real `openai` client, against `Rag.answer`."""

import asyncio
import sys
import threading
from pathlib import Path

import pytest
import torch

from foliogpt.modeling import FolioForCausalLM
from foliogpt.rag import Document, LLMGenerator, Rag
from foliogpt.serving import documents as documents_module
from foliogpt.serving.documents import Documents
from foliogpt.serving.generator import Choice, TextGenerator
from foliogpt.serving.openai_api import Api
from foliogpt.serving.openai_requests import ChatRequest
from foliogpt.tokenization import encode_chat, train_tokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "rag"))
from embedders import WordEmbedder

CHAT = "/v1/chat/completions"
CAT = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "I am a cat."}]
CAT = [{"role": "system", "content": "Be kind."}, *CAT, {"role": "user", "content": "Where does the cat sleep?"}]
QUANTUM = [{"role": "user", "content": "quantum chromodynamics lattice"}]
SAID = 'It is on "The cat sleeps on the mat." [1] A king "lives in a castle." [2] And so on "the mat." [1] Oh [7].'


@pytest.fixture(scope="module")
def rag(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    (folder / "cat.md").write_text("# Cats\n\nThe cat sleeps on the mat. It eats fish.\n")
    with Rag.open(folder / "index", embedder=WordEmbedder()) as opened:
        opened.sync(folder / "cat.md")
        king = "A king of the cat lives in a castle. He has a sword. Does the cat sleep where?"
        opened.sync([Document("king", king, "Kings", pages=(0,))])
        yield opened


@pytest.fixture(scope="module")
def api(rag, tiny_config):
    tokenizer = train_tokenizer(["the cat is free"] * 200, vocab_size=265, show_progress=False)
    torch.manual_seed(0)
    fields = {"vocab_size": len(tokenizer), "max_position_embeddings": 3000, "initializer_range": 0.5}
    model = FolioForCausalLM(tiny_config(**fields)).eval()
    model.generation_config.suppress_tokens = tokenizer.all_special_ids
    return Api("tiny", model, tokenizer, encode_chat, documents=Documents(rag.answer, LLMGenerator))


@pytest.fixture
def scripted(api, monkeypatch):
    """The model writes SAID, in pieces."""

    def generate(choice, emit) -> None:
        for start in range(0, len(SAID), 3):
            choice.tokens += 1
            emit(SAID[start : start + 3])
        choice.end()

    monkeypatch.setattr(api.generator, "_generate", generate)


def test_a_chat_is_answered_from_documents_with_annotations(client, scripted, api, rag):
    message = client.chat.completions.create(model="tiny", messages=CAT).choices[0].message
    expected = rag.answer(CAT[-1]["content"], LLMGenerator(api.generator, api.variants["tiny"].tokenizer))
    assert message.content == expected.text
    assert len(expected.citations) == 3
    cited = [annotation.url_citation for annotation in message.annotations]
    assert len(cited) == 3
    for each in cited:
        number = int(message.content[each.start_index : each.end_index].strip("[]"))
        citation = expected.citations[number - 1]
        assert each.url == (Path(citation.document).as_uri() if "cat.md" in citation.document else "king#page=1")
        assert each.title == ("Cats" if "cat.md" in each.url else "Kings")
    assert {each.title for each in cited} == {"Cats", "Kings"}


def test_a_streamed_answer_has_the_text_and_annotations_of_the_complete_one(client, scripted):
    complete = client.chat.completions.create(model="tiny", messages=CAT)
    options = {"include_usage": True}
    chunks = [*client.chat.completions.create(model="tiny", messages=CAT, stream=True, stream_options=options)]
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    message = complete.choices[0].message
    assert "".join(delta.content or "" for delta in deltas) == message.content
    assert len([delta for delta in deltas if delta.content]) == 4  # sentences
    (found,) = [delta.annotations for delta in deltas if getattr(delta, "annotations", None)]
    assert found == [annotation.model_dump() for annotation in message.annotations]
    assert chunks[-2].choices[0].finish_reason == complete.choices[0].finish_reason == "stop"
    assert chunks[-1].usage == complete.usage
    assert complete.usage.completion_tokens == -(-len(SAID) // 3)


def test_a_response_has_the_text_and_the_annotations_of_the_chat(client, scripted):
    message = client.chat.completions.create(model="tiny", messages=CAT).choices[0].message
    expected = [{"type": "url_citation", **cited.url_citation.model_dump()} for cited in message.annotations]
    whole = (
        client.responses.create(model="tiny", input=CAT[-1]["content"], instructions="Be kind.").output[0].content[0]
    )
    events = list(client.responses.create(model="tiny", input=CAT, stream=True))
    for part in (whole, events[-1].response.output[0].content[0]):
        assert (part.text, [found.model_dump(exclude_none=True) for found in part.annotations]) == (
            message.content,
            expected,
        )
    added = [event for event in events if event.type == "response.output_text.annotation.added"]
    # openai 3.1 and newer parse the annotation into a model; in older versions it is a dict.
    assert [event.model_dump(exclude_none=True)["annotation"] for event in added] == expected


@pytest.mark.parametrize("streamed", [False, True])
def test_a_question_without_an_answer_gets_the_reason(client, rag, streamed):
    answer = client.chat.completions.create(model="tiny", messages=QUANTUM, stream=streamed)
    text = "".join(c.choices[0].delta.content or "" for c in answer) if streamed else answer.choices[0].message.content
    assert text == f"No answer: {rag.answer(QUANTUM[0]['content']).reason}."


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 1.0, "seed": 3, "top_p": 0.9}], ids=str)
def test_sampling_fields_give_the_text_of_the_same_options(client, api, rag, options):
    fields = {"max_tokens": 20, **options, "model": "tiny", "messages": CAT}
    answer = client.chat.completions.create(**fields)
    with LLMGenerator(api.generator.model, api.variants["tiny"].tokenizer, max_new_tokens=20, **options) as writer:
        expected = rag.answer(CAT[-1]["content"], writer).text
    assert answer.choices[0].message.content == expected != ""
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (20, "length")
    assert answer.usage.prompt_tokens > 100  # the passages, too


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n": 2}, "n is not supported"),
        ({"logprobs": True}, "logprobs is not supported"),
        ({"tool_choice": "required"}, "tool_choice is not supported"),
        ({"frequency_penalty": 1}, "frequency_penalty is not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format is not supported"),
        ({"messages": [{"role": "system", "content": "the cat"}]}, "no message of the user"),
        ({"messages": [{"role": "user", "content": " "}]}, "question"),
        ({"messages": [{"role": "user", "content": "cat " * 2400}]}, "no room for a passage"),
        ({"max_tokens": 3000}, "max_tokens is 3000, and the context 3000"),
        ({"max_tokens": 2999}, "no room"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_document_chat_rejects_requests_that_it_cannot_answer(http, changes, says):
    answer = http.post(CHAT, json={"model": "tiny", "messages": CAT, **changes})
    assert (answer.status_code, says in answer.json()["error"]["message"]) == (400, True), answer.text


def test_fields_of_their_default_value_are_accepted(client):
    defaults = {"n": 1, "frequency_penalty": 0, "presence_penalty": 0, "tools": [], "tool_choice": "none"}
    assert client.chat.completions.create(model="tiny", messages=CAT, max_tokens=1, **defaults).choices


def test_an_answer_from_documents_ends_with_the_server(http, api, monkeypatch):
    begun, generate = threading.Event(), api.generator.generate

    def slow(choice, emit) -> None:
        begun.set()
        generate(choice, emit)

    monkeypatch.setattr(api.generator, "generate", slow)
    answers = []
    body = {"model": "tiny", "messages": CAT, "max_tokens": 2500}
    thread = threading.Thread(target=lambda: answers.append(http.post(CHAT, json=body)))
    thread.start()
    assert begun.wait(10)
    api.generator.stop()
    thread.join(10)
    assert [answer.status_code for answer in answers] == [503]
    assert not api.generator.unfinished


def test_a_hundred_clients_at_once_do_not_make_a_hundred_tokenizers(rag, api, monkeypatch):
    monkeypatch.setattr(documents_module, "MAX_ANSWERS", 3)
    tokenizer = api.variants["tiny"].tokenizer
    generator, documents = TextGenerator(api.generator.model, tokenizer), Documents(rag.answer, LLMGenerator)
    said = []

    async def ask_together() -> None:
        produce = documents.answering(ChatRequest(model="tiny", messages=QUANTUM), generator, tokenizer)
        choices = [Choice([], generator.model.generation_config) for _ in range(100)]
        await asyncio.gather(*(produce(choice, said.append) for choice in choices))

    asyncio.run(ask_together())
    assert (len(said), 1 <= len(documents.idle) <= 3) == (100, True)
    generator.close()


def test_an_answer_from_documents_ends_when_the_client_disconnects(rag, api):
    generator = TextGenerator(api.generator.model, api.variants["tiny"].tokenizer)
    choice = Choice([], api.generator.model.generation_config)
    documents = Documents(rag.answer, LLMGenerator)

    async def disconnect() -> int:
        wanted = ChatRequest(model="tiny", messages=CAT, max_tokens=2500)
        produce = documents.answering(wanted, generator, api.variants["tiny"].tokenizer)
        task = asyncio.ensure_future(produce(choice, lambda delta: None))
        while not any(choice.tokens for choice in [*generator.unfinished]):
            await asyncio.sleep(0.01)
        (written,) = generator.unfinished
        task.cancel()
        while generator.unfinished:
            await asyncio.sleep(0.01)
        return written.tokens

    assert asyncio.run(disconnect()) < 2500
    generator.close()
