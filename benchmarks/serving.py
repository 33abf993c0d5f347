"""Texts of many clients: how fast they come, how long each waits, what is lost, what a second reading saves.

    python -m benchmarks.serving
    python -m benchmarks.serving --sizes nano --clients 8 --requests 200 --json serving.json

All but the rows with `transformers serve` is counted in CPU seconds of one thread, so that a busy machine changes
little; those rows need an idle one. Texts have 128 tokens of prompt and 128 new ones. The random models never end a
text.
"""

import asyncio
import gc
import random
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from pydoc_data.topics import topics

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedTokenizerBase

from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.serving.generator import Choice, ServerEnding, TextGenerator, generation_config
from foliogpt.tokenization import train_tokenizer

from .serving_peer import against_transformers
from .tables import parser, show, write

VOCAB, CONTEXT, PROMPT, NEW, TWICE = 4096, 4096, 128, 128, 2000
WAYS = {"likeliest token": {"do_sample": False}, "temperature 0.8, top_p 0.9": {"temperature": 0.8, "top_p": 0.9}}


def build(size: str) -> FolioForCausalLM:
    torch.manual_seed(0)
    model = FolioForCausalLM(preset_config("folio", size, vocab_size=VOCAB, max_position_embeddings=CONTEXT)).eval()
    model.generation_config.eos_token_id = None
    return model


def prompt(length: int) -> list[int]:
    return [random.randrange(4, VOCAB) for _ in range(length)]


def cpu_seconds(work: Callable) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


async def read(generator: TextGenerator, choice: Choice, pieces: float = float("inf")) -> float:
    """CPU seconds to the first piece of a text, of which so many pieces are read."""
    start, first = time.process_time(), None
    async with aclosing(generator.stream(choice)) as stream:
        async for _ in stream:
            first = first or time.process_time() - start
            if (pieces := pieces - 1) <= 0:
                break
    return first or time.process_time() - start


def all_at_once(generator: TextGenerator, choices: list[Choice]) -> None:
    async def together() -> None:
        await asyncio.gather(*(read(generator, choice) for choice in choices))

    asyncio.run(together())


def speed(model: FolioForCausalLM, generator: TextGenerator, clients: int) -> list[dict]:
    """Tokens per CPU second: together, one after another (of four texts), and by transformers' `generate_batch`."""
    rows = []
    for name, options in WAYS.items():
        config = generation_config(model, NEW, **options)
        prompts = [prompt(PROMPT) for _ in range(clients)]

        def one_after_another(prompts=prompts, config=config) -> None:
            for ids in prompts[:4]:
                inputs = torch.tensor([ids])
                model.generate(inputs, attention_mask=torch.ones_like(inputs), generation_config=config)

        def by_transformers(prompts=prompts, options=options) -> None:
            theirs = GenerationConfig(
                max_new_tokens=NEW, eos_token_id=-1, pad_token_id=0, **{"do_sample": True} | options
            )
            cache = ContinuousBatchingConfig(num_blocks=len(prompts) * 10, max_batch_tokens=512, page_size=32)
            outputs = model.generate_batch(prompts, theirs, continuous_batching_config=cache)
            if any(len(output.generated_tokens) != NEW for output in outputs.values()):
                raise RuntimeError("generate_batch did not generate all tokens.")

        alone = 4 * NEW / cpu_seconds(one_after_another)
        ours = (
            clients * NEW / cpu_seconds(lambda p=prompts, c=config: all_at_once(generator, [Choice(i, c) for i in p]))
        )
        implementation = model.config._attn_implementation
        theirs = clients * NEW / cpu_seconds(by_transformers)
        model.set_attn_implementation(implementation)
        rows.append({"tokens": name, "one after another": alone, "together": ours, "generate_batch": theirs,
                     "together / one": ours / alone, "together / generate_batch": ours / theirs})  # fmt: skip
    return rows


def waiting(model: FolioForCausalLM, generator: TextGenerator, clients: int) -> dict:
    """CPU seconds to the first piece: alone, and for clients who ask again whenever their text has ended."""
    config = generation_config(model, 2, do_sample=False)

    async def alone() -> list[float]:
        return [await read(generator, Choice(prompt(PROMPT), config)) for _ in range(8)]

    async def client(place: int) -> list[float]:
        waits = []
        for turn in range(4):
            new = random.randint(NEW // 2, NEW * 3 // 2) if turn else NEW * (place + 1) // clients
            config = generation_config(model, new, do_sample=False)
            waits.append(await read(generator, Choice(prompt(PROMPT), config)))
        return waits[2:]  # in the first turn all ask at the same moment

    async def together() -> list[float]:
        return [wait for waits in await asyncio.gather(*map(client, range(clients))) for wait in waits]

    one, many = asyncio.run(alone()), asyncio.run(together())
    p95 = statistics.quantiles(many, n=20)[-1]
    usual = statistics.median(one)
    return {"alone": usual, "median": statistics.median(many), "p95": p95, "p95 / alone": p95 / usual}


def twice(model: FolioForCausalLM, generator: TextGenerator) -> dict:
    """CPU seconds for a long prompt and one token, and for the same prompt again."""
    config, ids = generation_config(model, 1, do_sample=False), prompt(TWICE)
    first, second = (cpu_seconds(lambda: generator.generate(Choice(ids, config), lambda _: None)) for _ in range(2))
    return {"first": first, "second": second, "second / first": second / first}


def endurance(generator: TextGenerator, requests: int) -> dict:
    """Requests of mixed length, 100 at a time; every third client goes away after a few pieces."""
    model, lost, memory, counts = generator.model, [], [], {"whole": 0, "cancelled": 0}
    before = threading.active_count()

    async def one(place: int, slots: asyncio.Semaphore) -> None:
        async with slots:
            config = generation_config(model, random.randint(1, 60), temperature=1.0)
            choice, goes = Choice(prompt(random.randint(1, 200)), config), place % 3 == 0
            try:
                await read(generator, choice, random.randint(1, 5) if goes else float("inf"))
            except (Exception, ServerEnding) as error:
                lost.append(error)
            counts["cancelled" if goes else "whole"] += 1
            if not goes and choice.tokens != config.max_new_tokens:
                lost.append(choice)
            if place % (requests // 4) == requests // 4 - 1:
                gc.collect()
                memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

    async def together() -> None:
        slots = asyncio.Semaphore(100)
        await asyncio.gather(*(one(place, slots) for place in range(requests)))

    asyncio.run(together())
    generator.thread.submit(int).result()  # the texts of clients that went away have ended
    batch = generator.batch
    left = len(batch.rows) + len(batch.reading) + len(batch.cache.layers) + len(generator.unfinished)
    return {**counts, "lost": len(lost), "rows left": left, "threads more": threading.active_count() - before,
            "MiB at half": memory[1], "MiB at the end": memory[-1]}  # fmt: skip


def peers(model: FolioForCausalLM, tokenizer: PreTrainedTokenizerBase, clients: int) -> list[dict]:
    """Rows of `folio serve` and `transformers serve`; only texts can be sent to the latter."""
    ids = tokenizer("\n".join(topics.values()), verbose=False)["input_ids"]
    texts = []
    while len(texts) < clients:
        start = random.randrange(len(ids) - PROMPT)
        text = tokenizer.decode(ids[start : start + PROMPT])
        if len(tokenizer(text)["input_ids"]) == PROMPT:  # not cut within a character
            texts.append(text)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "random"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return against_transformers(folder, texts, NEW)


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--sizes", nargs="+", default=["nano", "mini"])
    options.add_argument("--clients", type=int, default=32)
    options.add_argument("--requests", type=int, default=2000)
    args = options.parse_args(argv)
    torch.set_num_threads(1)
    random.seed(0)
    tokenizer = train_tokenizer([*topics.values()], VOCAB, show_progress=False)
    figures = {}
    for size in args.sizes:
        model = build(size)
        generator = TextGenerator(model, tokenizer)
        generator.generate(Choice(prompt(8), generation_config(model, 2)), lambda _: None)
        named = f"{size}, {model.num_parameters() / 1e6:.1f}M parameters"
        figures[size] = {
            "speed": speed(model, generator, args.clients),
            "waiting": waiting(model, generator, args.clients),
            "twice": twice(model, generator),
        }
        show(f"Tokens per CPU second, {args.clients} clients, {named}", figures[size]["speed"])
        show(f"CPU seconds to the first piece, {named}", [figures[size]["waiting"]])
        show(f"CPU seconds for a prompt of {TWICE:,} tokens, {named}", [figures[size]["twice"]])
        if size == args.sizes[0]:
            figures["endurance"] = endurance(generator, args.requests)
            show(f"{args.requests:,} requests, {named}", [figures["endurance"]])
            figures["servers"] = peers(model, tokenizer, args.clients)
            show(f"Over HTTP, {args.clients} clients at once, {named}", figures["servers"])
        generator.close()
    write(args.json, figures)


if __name__ == "__main__":
    main()
