"""Chats that are answered from documents, with citations as annotations of OpenAI's shape."""

import asyncio
import copy
import re
from collections.abc import Callable
from pathlib import PurePath

from transformers import PreTrainedTokenizerBase

from .answers import ApiError
from .generator import Choice, ServerEnding, TextGenerator
from .openai_requests import NO_LIMIT, ChatRequest, Sampling

MAX_ANSWERS = 32  # at once: each needs a thread, and a copy of the tokenizer
CITATION = re.compile(r"\[(\d+)\]")
USED = {
    "generation_config", "instructions", "max_tokens", "messages", "model", "seed", "stop", "stream", "stream_options",
}  # fmt: skip


class Documents:
    """Documents that answer questions: `answer` and `make_generator` are `Rag.answer` and `LLMGenerator`."""

    def __init__(self, answer: Callable, make_generator: Callable):
        self.answer, self.make_generator = answer, make_generator
        self.slots = asyncio.Semaphore(MAX_ANSWERS)
        self.idle: list[PreTrainedTokenizerBase] = []  # copies of the tokenizer: no two threads may use one

    def answering(self, wanted: ChatRequest, texts: TextGenerator, tokenizer: PreTrainedTokenizerBase) -> Callable:
        """Return `Answer.produce` for the last message of the user; ApiError for a field that would change nothing."""
        if unused := wanted.model_dump(exclude_defaults=True).keys() - USED - Sampling.model_fields.keys():
            message = f"{min(unused)} is not supported for answers from documents: leave it out."
            raise ApiError(message, param=min(unused))
        questions = [message.content for message in wanted.messages if message.role == "user"]
        if not questions:
            raise ApiError("There is no message of the user to answer.", param="messages")
        max_tokens = None if wanted.max_tokens == NO_LIMIT else wanted.max_tokens
        if (context := texts.context_length) and (max_tokens or 0) >= context:
            raise ApiError(f"max_tokens is {max_tokens}, and the context {context}: ask for fewer.", param="max_tokens")
        options = {"max_new_tokens": max_tokens or wanted.generation_config.max_new_tokens, "seed": wanted.seed}
        options |= {**wanted.options, "stop_strings": wanted.stop or None}
        options = {name: value for name, value in options.items() if value is not None}

        async def produce(choice: Choice, put: Callable[[dict], None]) -> None:
            async with self.slots:
                await write(choice, put)

        async def write(choice: Choice, put: Callable[[dict], None]) -> None:
            own = self.idle.pop() if self.idle else await asyncio.to_thread(copy.deepcopy, tokenizer)
            generator, loop = self.make_generator(texts, own, **options), asyncio.get_running_loop()

            def emit(piece: str) -> None:
                if choice.cancelled.is_set():
                    raise ServerEnding
                loop.call_soon_threadsafe(put, {"content": piece})

            def work():
                try:
                    return self.answer(questions[-1], generator, stream=emit)
                finally:
                    self.idle.append(own)  # in the thread, which does not end at once if the client disconnects

            try:
                answer = await asyncio.to_thread(work)
            except ValueError as error:  # such as a question that leaves no room for a passage
                raise ApiError(str(error)) from None
            finally:
                choice.cancelled.set()
                generator.stop()
            if texts.ending:
                raise ServerEnding
            if (written := generator.choice) is not None:
                choice.prompt_ids.extend(written.prompt_ids)
                choice.tokens = written.tokens
            if written is None or written.tokens < written.config.max_new_tokens:
                choice.finish_reason = "stop"
            put({"content": f"No answer: {answer.reason}."} if answer.refused else {"annotations": annotations(answer)})

        return produce


def annotations(answer) -> list[dict]:
    """Return the citation at each `[1]` of the text."""
    titles = {passage.document: passage.title for passage in answer.passages}
    found = []
    for mark in CITATION.finditer(answer.text):
        citation = answer.citations[int(mark[1]) - 1]
        path = PurePath(citation.document)
        url = path.as_uri() if path.is_absolute() else citation.document
        url += f"#page={citation.page}" if citation.page else ""
        cited = {"url": url, "title": titles.get(citation.document) or path.name}
        cited |= {"start_index": mark.start(), "end_index": mark.end()}
        found.append({"type": "url_citation", "url_citation": cited})
    return found
