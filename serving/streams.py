"""Answers on their way to a client: in one piece or as server-sent events. They end when the client disconnects."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing

from ..jobs.extras import extra
from .generator import ServerEnding

with extra("serve", "A server"):
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response

    from .answers import Answer, ApiError

logger = logging.getLogger(__name__)


def api_error(error: Exception) -> ApiError:
    """Return what a client gets to know of an error; the server's own are logged."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ServerEnding):
        return ApiError("The server is shutting down: send the request again later.", 503)
    logger.error("A request failed.", exc_info=error)
    return ApiError("An error in the server; its log says more.", 500)


async def while_connected(request: Request, work: Coroutine[None, None, dict]) -> Response:
    """Return what `work` gives as JSON; cancel it if the client disconnects."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return JSONResponse(task.result() if task.done() else {})  # in the second case the client has gone
    finally:
        task.cancel()
        gone.cancel()


async def complete(answer: Answer) -> dict:
    async with aclosing(_deltas(answer)) as deltas:
        async for index, delta in deltas:
            answer.add(index, delta)
    return answer.whole()


async def events(answer: Answer) -> AsyncIterator[str]:
    """Yield server-sent events."""
    try:
        for data in answer.first():
            yield event(data)
        async with aclosing(_deltas(answer)) as deltas:
            async for index, delta in deltas:
                answer.add(index, delta)
                for data in answer.pieces(index, delta):
                    yield event(data)
        for data in answer.last():
            yield event(data)
        yield answer.END
    except Exception as error:
        yield event(answer.failure(api_error(error)))


async def _deltas(answer: Answer) -> AsyncGenerator[tuple[int, dict | None]]:
    """Yield pieces of the choices, which are generated together, as they come; None after the last of each."""
    queue = asyncio.Queue()

    async def produce(index: int) -> None:
        await answer.produce(answer.choices[index], lambda delta: queue.put_nowait((index, delta)))
        queue.put_nowait((index, None))

    tasks = [asyncio.ensure_future(produce(index)) for index in range(len(answer.choices))]
    for task in tasks:
        task.add_done_callback(queue.put_nowait)
    try:
        while not (all(task.done() for task in tasks) and queue.empty()):
            if isinstance(item := await queue.get(), asyncio.Task):
                item.result()
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def event(data: dict) -> str:
    name = f"event: {data['type']}\n" if "type" in data else ""
    return f"{name}data: {json.dumps(data, ensure_ascii=False)}\n\n"


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
