"""The pieces of text that a client gets are together the text, and end where they should."""

import asyncio
from contextlib import aclosing

import peft
import pytest
import torch

from foliogpt.modeling import FolioForCausalLM
from foliogpt.serving.choice import IncrementalDecoder, StopFilter
from foliogpt.serving.generator import Choice, TextGenerator, generation_config
from foliogpt.tokenization import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the cat is free äöü 🎉 🎉"] * 20, vocab_size=275, show_progress=False)


@pytest.mark.parametrize("seed", range(20))
def test_decoder_gives_in_pieces_the_text_of_all_tokens(tokenizer, seed):
    """Random tokens are mostly bytes that make no character, in all the ways in which they cannot."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(len(tokenizer), (60,), generator=generator).tolist()
    ids[20:20] = tokenizer("free 🎉 äöü").input_ids
    decoder = IncrementalDecoder(tokenizer)
    pieces = [decoder.push(id) for id in ids] + [decoder.flush()]
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)


def test_decoder_emits_complete_characters_at_once(tokenizer):
    decoder = IncrementalDecoder(tokenizer)
    nonsense = tokenizer.convert_tokens_to_ids("Ģ")  # a byte that can only go on with a character
    assert len("".join(decoder.push(nonsense) for _ in range(50))) == 47
    decoder = IncrementalDecoder(tokenizer)
    pieces = [decoder.push(id) for id in tokenizer("a🎉ü").input_ids]
    assert [piece for piece in pieces if piece] == ["a", "🎉", "ü"]


def test_nothing_of_a_stop_string_is_passed_on():
    for size in range(1, 8):
        text = "one STO two STOP three"
        filter = StopFilter(["STOP", "STOOP", ""])
        out = "".join(filter.push(text[i : i + size]) for i in range(0, len(text), size)) + filter.flush()
        assert (out, filter.found) == ("one STO two ", True)
    filter = StopFilter(["STOP"])
    assert filter.push("a STO") + filter.flush() == "a STO"


def test_a_stop_string_of_a_megabyte_does_not_hold_the_thread():
    """To try all of its beginnings would take minutes a token."""
    filter = StopFilter(["a" * 2**20])
    assert "".join(filter.push("ab") for _ in range(100)) + filter.flush() == "ab" * 100


def test_the_client_overrides_the_checkpoint_and_nothing_else(tiny):
    model = FolioForCausalLM(tiny())
    model.generation_config.update(do_sample=True, temperature=0.8, top_p=0.9, eos_token_id=1, repetition_penalty=1.1)
    config = generation_config(model, 5, also_ends=[3])
    assert (config.do_sample, config.temperature, config.top_p, config.top_k) == (True, 0.8, 0.9, 0)
    assert (config.eos_token_id, config.repetition_penalty, config.max_new_tokens) == ([1, 3], 1.1, 5)
    assert generation_config(model, 5, temperature=0.0).do_sample is False
    assert generation_config(model, 5, temperature=1e-30).do_sample is False
    model.generation_config.update(do_sample=False, temperature=None, top_p=None)
    assert generation_config(model, 5).do_sample is False
    assert generation_config(model, 5, temperature=0.5).do_sample is True
    assert generation_config(model, 5, do_sample=True).do_sample is True


def test_generator_drops_a_text_when_its_reader_stops(tiny, tokenizer):
    model = FolioForCausalLM(tiny(vocab_size=len(tokenizer), max_position_embeddings=5000, eos_token_id=None))
    model.generation_config.eos_token_id = None

    async def first_piece(generator: TextGenerator, choice: Choice) -> None:
        async with aclosing(generator.stream(choice)) as pieces:
            async for _ in pieces:
                return

    async def run() -> list[Choice]:
        generator = TextGenerator(model, tokenizer)
        choices = [Choice([5], generation_config(model, 4000, temperature=1.0)) for _ in range(3)]
        tasks = [asyncio.create_task(first_piece(generator, choice)) for choice in choices]
        await asyncio.sleep(0)  # all three are in line
        tasks[1].cancel()  # while it waits
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not generator.unfinished
        generator.close()
        return choices

    first, never, last = asyncio.run(run())
    assert never.tokens == 0
    assert 0 < first.tokens < 2000
    assert 0 < last.tokens < 2000


def test_virtual_tokens_leave_less_room_than_the_context(tiny, tokenizer):
    """With learned positions, one token more would have no position."""
    model = FolioForCausalLM(tiny("gpt2", vocab_size=len(tokenizer)))
    adapter = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=9)
    generator = TextGenerator(peft.get_peft_model(model, adapter), tokenizer)
    room = generator.context_length - 5
    assert room == 64 - 9 - 5
    choice = Choice([5] * 5, generation_config(model, room, min_new_tokens=room))
    generator.generate(choice, lambda piece: None)
    assert choice.tokens == room
    generator.close()
