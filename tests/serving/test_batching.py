"""Texts that are generated together are those that `generate` gives for each alone."""

import asyncio
import threading
import time
from contextlib import aclosing

import peft
import pytest
import torch
import transformers
from tapes import record

from foliogpt.modeling import FolioForCausalLM
from foliogpt.serving import batching, cuda_graphs
from foliogpt.serving.generator import Choice, TextGenerator, generation_config
from foliogpt.tokenization import train_tokenizer

VOCAB = 270
SHAPE = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "max_position_embeddings": 128, "pad_token_id": 0, "initializer_range": 0.3}  # fmt: skip
LLAMA = {**SHAPE, "intermediate_size": 48, "num_key_value_heads": 2}
OURS = {
    "folio": {}, "gpt2": {"preset": "gpt2"}, "vaswani": {"preset": "vaswani"}, "speedrun": {"preset": "speedrun"},
    "sliding": {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]},
    "no positions": {"position_embedding_type": "none"}, "multi-query": {"num_key_value_heads": 1, "head_dim": 24},
}  # fmt: skip
THEIRS = {
    "llama": transformers.LlamaConfig(**LLAMA), "qwen3": transformers.Qwen3Config(**LLAMA, head_dim=8),
    "gpt_neox": transformers.GPTNeoXConfig(**SHAPE, intermediate_size=48),
    "gemma3": transformers.Gemma3TextConfig(**LLAMA, head_dim=8, sliding_window=6, sliding_window_pattern=2),
    "bloom": transformers.BloomConfig(
        vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4, pad_token_id=0, initializer_range=0.3
    ),
    "mistral": transformers.MistralConfig(**LLAMA, sliding_window=6),
    "stock gpt2": transformers.GPT2Config(
        vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=128, pad_token_id=0, initializer_range=0.3
    ),
}  # fmt: skip
ALONE = {
    "mamba": transformers.MambaConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, state_size=4, pad_token_id=0, initializer_range=0.3
    ),
    "lfm2": transformers.Lfm2Config(**LLAMA, layer_types=["conv", "full_attention"]),
}


both_roads = pytest.mark.parametrize("road", ["eager", "static"], indirect=True)


@pytest.fixture
def road(request, monkeypatch):
    """How a token of each row is computed. The second road is that of CUDA graphs, with small buffers on the CPU."""
    batches = []
    if getattr(request, "param", "eager") == "static":
        init = batching.Batch.__init__

        def with_graphs(batch, *arguments):
            init(batch, *arguments)
            batch.graphs = cuda_graphs.StaticSteps(batch._logits, batch._eager, batch.max_bytes // 2, record)
            batches.append(batch)

        monkeypatch.setattr(batching.Batch, "__init__", with_graphs)
        monkeypatch.setattr(cuda_graphs, "MIN_TOKENS", 16)
    yield
    for batch in batches:
        assert batch.graphs is None or batch.graphs.fault is None
    assert not batches or any(batch.graphs and batch.graphs.steps for batch in batches)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the cat is free"] * 20, vocab_size=265, show_progress=False)


@pytest.fixture
def make(tiny, road):
    """A model by its name, with large weights, so that the tokens differ and no tie decides."""

    def build(name: str = "folio") -> transformers.PreTrainedModel:
        torch.manual_seed(0)
        if name in OURS:
            model = FolioForCausalLM(
                tiny(**OURS[name], vocab_size=VOCAB, max_position_embeddings=128, initializer_range=0.3)
            )
        else:
            model = transformers.AutoModelForCausalLM.from_config((THEIRS | ALONE)[name])
        model.generation_config.eos_token_id = None
        return model.eval()

    return build


@pytest.fixture
def generator(make, tokenizer):
    generator = TextGenerator(make(), tokenizer)
    yield generator
    generator.close()


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(3, VOCAB, (length,), generator=torch.Generator().manual_seed(1000 * seed + length)).tolist()


def choices_of(model, options: list[dict], **more) -> list[Choice]:
    """A text for each of the options: prompts from 1 to 40 tokens, from 1 to 30 new ones."""
    lengths = [(3, 30), (40, 5), (1, 12), (17, 17), (9, 1), (25, 24), (2, 2), (33, 9)]
    choices = []
    for i, fields in enumerate(options):
        length, new = lengths[i % len(lengths)]
        seed = fields.get("seed")
        config = generation_config(model, new, **{name: fields[name] for name in fields.keys() - {"seed"}})
        choices.append(Choice(prompt(length, i), config, seed=seed, **{"logprobs": 0, **more}))
    return choices


def expected(model, choice: Choice) -> list[int]:
    """The new tokens of `generate`, with the choice's seed."""
    ids = torch.tensor([choice.prompt_ids])
    with torch.random.fork_rng():
        torch.manual_seed(choice.seed or 0)
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=choice.config,
            logits_processor=choice.processors,
        )
    return out[0, ids.shape[1] :].tolist()


def run(generator: TextGenerator, choices: list[Choice], apart: float = 0.0) -> list[str | BaseException]:
    """All choices at once, or each a little after the one before: their texts or errors."""

    async def one(i: int, choice: Choice) -> str:
        await asyncio.sleep(i * apart)
        async with aclosing(generator.stream(choice)) as pieces:
            return "".join([piece async for piece in pieces])

    async def together():
        return await asyncio.gather(*(one(i, choice) for i, choice in enumerate(choices)), return_exceptions=True)

    return asyncio.run(together())


def tokens_of(choice: Choice) -> list[int]:
    return [token for token, _, _ in choice.scored]


def watched(generator: TextGenerator) -> list[tuple[int, int]]:
    """A list that gets the shape of the ids in each call of the model."""
    shapes = []
    hook = lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape))  # noqa: E731
    generator.model.register_forward_pre_hook(hook, with_kwargs=True)
    return shapes


@both_roads
@pytest.mark.parametrize("name", [*OURS, *THEIRS])
def test_batch_gives_the_texts_of_generate_while_texts_join_and_leave(make, tokenizer, name, monkeypatch):
    monkeypatch.setattr(batching, "PREFILL_CHUNK", 16)
    model = make(name)
    generator = TextGenerator(model, tokenizer)
    assert generator.why_alone is None
    shapes = watched(generator)
    choices = choices_of(model, [{"do_sample": False}] * 14)
    texts = run(generator, choices, apart=0.002)
    generator.close()
    assert max(rows for rows, _ in shapes) > 3, "they were not generated together"
    for choice, text in zip(choices, texts, strict=True):
        new = expected(model, choice)
        assert tokens_of(choice) == new
        assert text == choice.text == tokenizer.decode(new, skip_special_tokens=True)
        assert (choice.tokens, choice.finish_reason) == (len(new), "length")


@pytest.mark.parametrize("name", ALONE)
def test_a_model_that_cannot_be_batched_is_served_one_text_after_another(make, tokenizer, name):
    model = make(name)
    generator = TextGenerator(model, tokenizer)
    assert generator.why_alone
    choices = choices_of(model, [{"do_sample": False}, {"temperature": 1.0, "seed": 3}])
    (error, _) = run(generator, choices)
    assert "There are no log-probabilities" in str(error)
    choices = choices_of(model, [{"do_sample": False}, {"temperature": 1.0, "seed": 3}], logprobs=None)
    texts = run(generator, choices)
    generator.close()
    for choice, text in zip(choices, texts, strict=True):
        assert text == tokenizer.decode(expected(model, choice), skip_special_tokens=True)
        assert choice.tokens == choice.config.max_new_tokens


@pytest.mark.parametrize("kind", ["lora", "prompt"])
def test_adapters_generate_what_they_generate_alone(make, tokenizer, kind):
    configs = {
        "lora": peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False),
        "prompt": peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    }
    model = peft.get_peft_model(make(), configs[kind]).eval()
    generator = TextGenerator(model, tokenizer)
    assert (generator.why_alone is None) == (kind == "lora")
    choices = choices_of(model, [{"do_sample": False}] * 4, logprobs=None)
    texts = run(generator, choices)
    generator.close()
    for choice, text in zip(choices, texts, strict=True):
        ids = torch.tensor([choice.prompt_ids])
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=choice.config)
        assert text == tokenizer.decode(out[0, -choice.config.max_new_tokens :], skip_special_tokens=True)


SAMPLED = [
    {"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.8}, {"temperature": 1.3, "top_k": 9}, {"do_sample": False},
    {"temperature": 0.7, "top_p": 0.8}, {"min_p": 0.05}, {"typical_p": 0.6}, {"temperature": 1.0},
    {"temperature": 1.0, "repetition_penalty": 1.4}, {"temperature": 2.0, "no_repeat_ngram_size": 2},
    {"temperature": 1.0, "min_new_tokens": 8}, {"do_sample": False, "repetition_penalty": 1.4},
    {"temperature": 1.0, "suppress_tokens": [5, 6, 7]}, {"temperature": 0.7, "top_p": 0.8},
]  # fmt: skip


@both_roads
def test_a_seed_gives_the_text_of_generate_among_others_and_alone(make, tokenizer):
    """Whatever the others of the batch ask for."""
    model = make()
    generator = TextGenerator(model, tokenizer)
    options = [fields | {"seed": 10 + i} for i, fields in enumerate(SAMPLED)]
    choices = choices_of(model, options)
    unseeded = choices_of(model, [{"temperature": 1.0}] * 3)
    run(generator, [*choices[:7], *unseeded, *choices[7:]])
    for choice, alone in zip(choices, choices_of(model, options), strict=True):
        run(generator, [alone])
        assert tokens_of(choice) == tokens_of(alone) == expected(model, choice)
    generator.close()


@both_roads
def test_texts_without_a_seed_differ(generator):
    choices = [Choice(prompt(3), generation_config(generator.model, 20, temperature=2.0)) for _ in range(6)]
    assert len(set(run(generator, choices))) == 6


class Forbid(transformers.LogitsProcessor):
    """Forbids the token that the text ended with, and notes what it was called with."""

    def __init__(self):
        self.lengths = []

    def __call__(self, input_ids, scores):
        self.lengths.append(input_ids.shape[1])
        scores = scores.clone()
        scores[0, input_ids[0, -1]] = -torch.inf
        return scores


@both_roads
def test_processors_of_one_text_see_its_tokens_and_change_no_other(make, tokenizer):
    model = make()
    generator = TextGenerator(model, tokenizer)
    choices = choices_of(model, [{"do_sample": False}, {"temperature": 1.0, "seed": 1}] * 2)
    choices[0].processors, choices[1].processors = [Forbid()], [Forbid()]
    run(generator, choices)
    generator.close()
    for choice in choices[:2]:
        size = len(choice.prompt_ids)
        assert choice.processors[0].lengths == list(range(size, size + choice.config.max_new_tokens))
    for choice in choices:
        assert tokens_of(choice) == expected(model, choice)


@both_roads
def test_log_probabilities_are_the_models_own(make, tokenizer):
    model = make()
    generator = TextGenerator(model, tokenizer)
    config = generation_config(model, 9, temperature=0.5, top_k=3, repetition_penalty=1.2)
    choices = [Choice(prompt(size), config, seed=size, logprobs=4) for size in (3, 12, 7)]
    run(generator, choices)
    generator.close()
    for choice in choices:
        ids = torch.tensor([choice.prompt_ids + tokens_of(choice)])
        with torch.no_grad():
            scores = model(ids, use_cache=False).logits[0, len(choice.prompt_ids) - 1 : -1].log_softmax(-1)
        for row, (token, score, likeliest) in zip(scores, choice.scored, strict=True):
            top = row.topk(4)
            assert score == pytest.approx(row[token].item(), abs=1e-4)
            assert [id for id, _ in likeliest] == top.indices.tolist()
            assert [value for _, value in likeliest] == pytest.approx(top.values.tolist(), abs=1e-4)


@both_roads
def test_the_end_of_a_text_and_stop_strings_end_it_alone(generator, tokenizer):
    model = generator.model
    whole = [Choice(prompt(5, i), generation_config(model, 20, do_sample=False), logprobs=0) for i in range(3)]
    texts = run(generator, whole)
    ended = [Choice(choice.prompt_ids, choice.config, logprobs=0) for choice in whole]
    ended[0].config = generation_config(model, 20, also_ends=[tokens_of(whole[0])[6]], do_sample=False)
    ended[1].stop = [texts[1][4:7]]
    run(generator, ended)
    first = tokens_of(whole[0]).index(tokens_of(whole[0])[6])
    assert (tokens_of(ended[0]), ended[0].finish_reason) == (tokens_of(whole[0])[: first + 1], "stop")
    assert (ended[1].text, ended[1].finish_reason) == (texts[1][: texts[1].index(texts[1][4:7])], "stop")
    assert (ended[2].text, ended[2].finish_reason) == (texts[2], "length")


@both_roads
def test_a_cancelled_text_leaves_the_batch_at_once_and_the_others_stay_what_they_are(generator):
    model = generator.model
    long = generation_config(model, 100, do_sample=False)
    kept = [Choice(prompt(7, i), long, logprobs=0) for i in range(3)]
    gone = [Choice(prompt(20, i), long) for i in range(3)]

    async def leave(choice: Choice) -> None:
        async with aclosing(generator.stream(choice)) as pieces:
            async for _ in pieces:
                return

    async def stay(choice: Choice) -> None:
        async with aclosing(generator.stream(choice)) as pieces:
            async for _ in pieces:
                pass

    async def together() -> None:
        await asyncio.gather(*map(stay, kept), *map(leave, gone))

    asyncio.run(together())
    assert all(choice.tokens < 60 for choice in gone)
    assert [tokens_of(choice) for choice in kept] == [expected(model, choice) for choice in kept]
    assert not generator.batch.rows + generator.batch.reading
    assert not generator.batch.cache.layers, "its keys and values are still there"
    assert not generator.unfinished


def test_an_error_in_the_middle_reaches_every_text_of_the_batch_and_the_next_is_served(generator, monkeypatch):
    model = generator.model
    forward, calls = type(model).forward, []

    def fail(self, *args, **kwargs):
        calls.append(1)
        if len(calls) > 12:
            raise RuntimeError("out of memory")
        return forward(self, *args, **kwargs)

    assert generator.why_alone is None
    choices = [Choice(prompt(5, i), generation_config(model, 50, do_sample=False)) for i in range(4)]
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "forward", fail)
        errors = run(generator, choices)
    assert [str(error) for error in errors] == ["out of memory"] * 4
    assert not generator.unfinished
    again = Choice(choices[0].prompt_ids, choices[0].config, logprobs=0)
    run(generator, [again])
    assert tokens_of(again) == expected(model, again)


@both_roads
def test_an_error_about_one_text_ends_that_one_alone(generator):
    class Fail(transformers.LogitsProcessor):
        def __call__(self, input_ids, scores):
            raise LookupError("no such rule")

    class Nothing(transformers.LogitsProcessor):
        def __call__(self, input_ids, scores):
            return scores * torch.nan

    model = generator.model
    sampled = generation_config(model, 12, temperature=1.0)
    hot = generation_config(model, 12)
    hot.update(do_sample=True, temperature=-1.0)
    choices = [
        Choice(prompt(5), sampled, seed=1, logprobs=0), Choice(prompt(5), sampled, processors=[Fail()]),
        Choice(prompt(5), sampled, processors=[Nothing()]), Choice(prompt(5), hot), Choice([VOCAB + 5], sampled),
    ]  # fmt: skip
    text, *errors = run(generator, choices)
    assert text == choices[0].text
    assert tokens_of(choices[0]) == expected(model, choices[0])
    assert [type(error) for error in errors] == [LookupError, RuntimeError, ValueError, IndexError]

    def refuse(piece: str) -> None:
        raise KeyError(piece)

    with pytest.raises(KeyError):
        generator.generate(Choice(prompt(5), sampled), refuse)
    run(generator, [Choice(prompt(5), sampled)])


def test_texts_that_memory_has_no_room_for_wait_and_are_the_same(generator):
    """All rows of the batch are as long as the longest: a few grow, until the last to come must leave again."""
    model = generator.model
    choices = [Choice(prompt(4, i), generation_config(model, 60, do_sample=False), logprobs=0) for i in range(6)]
    shapes = watched(generator)
    assert generator.why_alone is None
    config = model.config
    width = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    generator.batch.max_bytes = 4 * 24 * width
    run(generator, choices)
    assert [tokens_of(choice) for choice in choices] == [expected(model, choice) for choice in choices]
    assert (6, 1) in shapes
    assert any(tokens > 4 for _, tokens in shapes), "none had to leave and was read again"


@both_roads
def test_batch_serves_others_while_it_reads_a_long_prompt(generator, monkeypatch):
    monkeypatch.setattr(batching, "PREFILL_CHUNK", 8)
    model = generator.model
    order = []
    short, long = (generation_config(model, new, do_sample=False) for new in (10, 3))

    async def one(name: str, choice: Choice) -> None:
        async with aclosing(generator.stream(choice)) as pieces:
            async for _ in pieces:
                pass
        order.append(name)

    async def together() -> None:
        running, waiting = Choice(prompt(4), short), Choice(prompt(6), short)
        await asyncio.gather(one("a", running), one("long", Choice(prompt(120), long)), one("b", waiting))

    asyncio.run(together())
    assert order == ["a", "b", "long"]


def test_the_beginning_that_two_prompts_share_is_read_once(generator):
    model = generator.model
    config, first = generation_config(model, 5, do_sample=False), prompt(60)
    choices = [Choice(ids, config, logprobs=0) for ids in (first, first, first[:50] + prompt(7), first[:30], prompt(9))]
    assert generator.why_alone is None
    shapes = watched(generator)
    for choice in choices:
        run(generator, [choice])
    read = [tokens for _, tokens in shapes if tokens > 1 or len(shapes) == 1]
    assert [tokens for i, (_, tokens) in enumerate(shapes) if i % 5 == 0] == [60, 1, 7, 1, 9], read
    assert [tokens_of(choice) for choice in choices] == [expected(model, choice) for choice in choices]


def test_prefix_cache_has_a_limit(generator, monkeypatch):
    monkeypatch.setattr(batching, "MAX_PREFIX_TOKENS", 100)
    config = generation_config(generator.model, 1, do_sample=False)
    for i in range(30):
        run(generator, [Choice(prompt(40, i), config)])
    assert list(generator.batch.prefixes) == [(None, *prompt(40, i)) for i in (28, 29)]  # without an adapter


def test_beams_wait_for_the_batch_and_are_not_overtaken_for_ever(generator):
    model = generator.model
    greedy, beams = generation_config(model, 20, do_sample=False), generation_config(model, 8, num_beams=3)
    choices = [Choice(prompt(4, i), beams if i == 2 else greedy) for i in range(5)]
    texts = run(generator, choices)
    for choice, text in zip(choices, texts, strict=True):
        assert text == generator._tokenizer.decode(expected(model, choice), skip_special_tokens=True)


def test_more_texts_than_rows_are_all_served(generator, monkeypatch):
    monkeypatch.setattr("foliogpt.serving.generator.MAX_ROWS", 3)
    shapes = watched(generator)
    choices = choices_of(generator.model, [{"do_sample": False}] * 16)
    run(generator, choices)
    assert max(rows for rows, _ in shapes) == 3
    assert [tokens_of(choice) for choice in choices] == [expected(generator.model, choice) for choice in choices]


@pytest.mark.parametrize("by", ["assistant", "lookup"])
def test_drafted_tokens_are_those_of_generate(make, tokenizer, by):
    model = make()
    torch.manual_seed(1)
    assistant = FolioForCausalLM(model.config).eval() if by == "assistant" else None
    generator = TextGenerator(model, tokenizer, assistant)
    config = generation_config(model, 40, do_sample=False)
    drafted = generation_config(model, 40, do_sample=False, prompt_lookup_num_tokens=3 if by == "lookup" else None)
    repeated = prompt(6) * 4
    choices = [Choice(ids, drafted) for ids in (repeated, prompt(20))]
    shapes = watched(generator)
    texts = run(generator, choices)
    assert max(tokens for _, tokens in shapes[1:] if tokens < 20) > 1, "nothing was drafted"
    stopped = Choice(repeated, drafted, stop=[texts[0][3:6]])
    run(generator, [stopped])
    generator.close()
    plain = [Choice(choice.prompt_ids, config) for choice in choices]
    assert texts == [tokenizer.decode(expected(model, choice), skip_special_tokens=True) for choice in plain]
    assert [choice.tokens for choice in choices] == [40, 40]
    assert (stopped.text, stopped.finish_reason) == (texts[0][: texts[0].index(texts[0][3:6])], "stop")


def test_closing_ends_texts_that_are_generated_and_those_that_wait(make, tokenizer, monkeypatch):
    monkeypatch.setattr("foliogpt.serving.generator.MAX_ROWS", 2)
    generator = TextGenerator(make(), tokenizer)
    begun = threading.Event()
    hook = generator.model.register_forward_hook(lambda *_: begun.set())
    config = generation_config(generator.model, 120, do_sample=False)
    choices = [Choice(prompt(4, i), config) for i in range(6)]
    threads = [threading.Thread(target=generator.generate, args=(choice, lambda _: None)) for choice in choices]
    for thread in threads:
        thread.start()
    begun.wait(10)
    while len(generator.unfinished) < len(choices):
        time.sleep(0.01)
    generator.close()
    for thread in threads:
        thread.join(10)
    hook.remove()
    assert not any(thread.is_alive() for thread in threads)
    assert not generator.unfinished
