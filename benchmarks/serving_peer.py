"""`folio serve` and `transformers serve`: the same requests over HTTP to each, one server after the other.

transformers looks a model's class up among its own, so its server is started with the class set there.
"""

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil

FOLIO = "from foliogpt.scripts.cli import main; main()"
TRANSFORMERS = """from foliogpt.modeling import FolioForCausalLM
from transformers.cli.serving import model_manager
from transformers.cli.transformers import main
model_manager.transformers.FolioForCausalLM = FolioForCausalLM
main()"""
START_SECONDS = 120


def servers(folder: Path, clients: int) -> dict[str, list[str]]:
    """The arguments of Python that start each server, but for the port."""
    blocks = ["--cb-num-blocks", str(clients * 10), "--cb-block-size", "32", "--cb-max-batch-tokens", "512"]
    theirs = ["-c", TRANSFORMERS, "serve", str(folder)]  # its blocks are those of our rows with `generate_batch`
    return {
        "folio serve": ["-c", FOLIO, "serve", "--model", str(folder)],
        "transformers serve": theirs,
        "transformers serve --continuous-batching": [*theirs, "--continuous-batching", *blocks],
    }


def against_transformers(folder: Path, prompts: list[str], new: int) -> list[dict]:
    """A row for each server: all prompts at once, `new` tokens for each; or its error."""
    rows = []
    for name, command in servers(folder, len(prompts)).items():
        model = folder.name if name == "folio serve" else str(folder)
        try:
            figures = {**measured(command, model, prompts, new), "error": ""}
        except (RuntimeError, httpx.HTTPError) as error:
            figures = {"error": " ".join(f"{error}".split())[-200:] or type(error).__name__}
        rows.append({"server": name, **figures})
    ours, our_texts = rows[0].get("tokens / s"), rows[0].get("texts", ())
    for row in rows:
        if texts := row.pop("texts", None):
            row["texts like ours"] = sum(map(str.__eq__, texts, our_texts))
            row["ours / this"] = ours / row["tokens / s"] if ours else ""
    keys = max(rows, key=len)
    return [{key: row.get(key, "") for key in keys} for row in rows]


def measured(command: list[str], model: str, prompts: list[str], new: int) -> dict:
    """Tokens of a server per second and per second of its processor, seconds to the first token, and the texts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryFile("w+") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, *command, "--port", str(port)], stdout=log, stderr=subprocess.STDOUT, env=environment
        )
        try:
            return asyncio.run(_load(process, f"http://127.0.0.1:{port}", model, prompts, new))
        except (RuntimeError, httpx.HTTPError) as error:
            log.seek(0)
            said = log.read().strip().splitlines()[-1:]
            raise RuntimeError(f"{type(error).__name__}: {error} {' '.join(said)}") from None
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def _load(process: subprocess.Popen, url: str, model: str, prompts: list[str], new: int) -> dict:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=httpx.Timeout(3600), limits=limits, trust_env=False) as client:
        deadline = time.monotonic() + START_SECONDS
        while not await _is_up(client):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("The server did not start.")
            await asyncio.sleep(0.2)
        await _read(client, model, prompts[0], new)  # what is done once
        server = psutil.Process(process.pid)
        cpu, begun = sum(server.cpu_times()[:2]), time.perf_counter()
        answers = await asyncio.gather(*(_read(client, model, prompt, new) for prompt in prompts))
        seconds, cpu = time.perf_counter() - begun, sum(server.cpu_times()[:2]) - cpu
    waits, tokens, texts = zip(*answers, strict=True)
    if set(tokens) != {new}:
        raise RuntimeError(f"Each text should have {new} tokens, and they have {min(tokens)} to {max(tokens)}.")
    first, p95 = statistics.median(waits), statistics.quantiles(waits, n=20)[-1]
    return {"tokens": sum(tokens), "tokens / s": sum(tokens) / seconds, "tokens / CPU s": sum(tokens) / cpu,
            "s to the first token: median": first, "p95": p95, "texts": texts}  # fmt: skip


async def _is_up(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/health")).is_success
    except httpx.TransportError:
        return False


async def _read(client: httpx.AsyncClient, model: str, prompt: str, new: int) -> tuple[float, int, str]:
    """Seconds to the first piece of a text, the number of its tokens as the server counted them, and the text."""
    begun, first, usage, text = time.perf_counter(), None, None, ""
    body = {"model": model, "prompt": prompt, "max_tokens": new, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True}}  # fmt: skip
    async with client.stream("POST", "/v1/completions", json=body) as response:
        if not response.is_success:
            raise RuntimeError(f"HTTP {response.status_code} {(await response.aread()).decode()}")
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise RuntimeError(str(event["error"]))
            text += "".join(choice["text"] for choice in event["choices"])
            if first is None and event["choices"]:
                first = time.perf_counter() - begun
            usage = event.get("usage") or usage
    if first is None or usage is None:
        raise RuntimeError("The stream ended without a text, or without the number of its tokens.")
    return first, usage["completion_tokens"], text
