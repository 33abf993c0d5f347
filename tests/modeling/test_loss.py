"""The next-token loss: whole, chunked and transformers' own are one function of the same arguments."""

import functools
import inspect

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.loss.loss_utils import ForCausalLMLoss

from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.modeling.modeling_folio import LOSS_ARGUMENTS

B, T, V = 2, 7, 31
IDS = torch.randint(2, V, (B, T), generator=torch.Generator().manual_seed(1))
ADAPTERS = {
    "none": None,
    "lora": peft.LoraConfig(target_modules=["lm_head", "q_proj"], r=2, init_lora_weights=False),
    "dora": peft.LoraConfig(target_modules=["lm_head"], r=2, use_dora=True, init_lora_weights=False),
    "modules_to_save": peft.LoraConfig(modules_to_save=["lm_head"]),
    "trainable tokens": peft.TrainableTokensConfig(target_modules=["embed_tokens"], token_indices=[3, 5]),
    "target_parameters": peft.LoraConfig(target_modules=[], target_parameters=["lm_head.weight"], r=2),
}


@functools.cache
def model_with(adapter: str, tied: bool, softcap: float | None):
    torch.manual_seed(0)
    config = preset_config(
        "folio", "nano", vocab_size=V, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=24, tie_word_embeddings=tied, final_logit_softcapping=softcap,
        initializer_range=0.5,
    )  # fmt: skip
    model = FolioForCausalLM(config)
    return peft.get_peft_model(model, ADAPTERS[adapter]) if ADAPTERS[adapter] else model


def results(model, chunk, z_loss, training, arguments):
    """The loss and all gradients of the model's own loss, computed `chunk` tokens at a time."""
    folio = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    folio.loss_chunk_size, folio.z_loss = chunk, z_loss
    return with_gradients(model.train(training), lambda: model(input_ids=IDS, **arguments).loss)


def with_gradients(model, compute):
    model.zero_grad()
    loss = compute()
    loss.backward()
    return {"loss": loss.detach(), **{n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}}


def stock(model, z_loss, training, arguments):
    """The same by transformers' loss on the logits, and the z-loss by its formula."""
    arguments = dict(arguments)
    kept = {"logits_to_keep": arguments.pop("logits_to_keep")} if "logits_to_keep" in arguments else {}

    def compute():
        logits = model.train(training)(input_ids=IDS, **kept).logits
        loss = ForCausalLMLoss(logits, vocab_size=V, **arguments)
        if training and z_loss:
            ignored = arguments.get("ignore_index", -100)
            targets = arguments.get("shift_labels")
            if targets is None:
                targets = torch.cat([arguments["labels"][:, 1:], torch.full((B, 1), ignored)], dim=1)
            squares = logits.logsumexp(-1)[targets != ignored].square()
            items = arguments.get("num_items_in_batch")
            loss = loss + z_loss * squares.sum() / (len(squares) if items is None else items)
        return loss

    return with_gradients(model, compute)


@st.composite
def loss_arguments(draw):
    arguments, ignored = {}, -100
    if draw(st.booleans()):
        arguments["ignore_index"] = ignored = draw(st.sampled_from([-100, -1, 4]))
    seed = draw(st.integers(0, 99))
    generator = torch.Generator().manual_seed(seed)

    def labels(length):
        drawn = torch.randint(0, V, (B, length), generator=generator)
        drawn[torch.rand(B, length, generator=generator) < 0.3] = ignored
        drawn[0, 1] = 7  # one target at least
        return drawn

    arguments["labels"] = labels(T)
    if draw(st.booleans()):
        keep = draw(st.sampled_from([0, 3]))
        arguments["shift_labels"] = labels(keep or T)
        if keep:
            arguments["logits_to_keep"] = keep
    items = draw(st.sampled_from([None, 5, torch.tensor(9)]))
    if items is not None or draw(st.booleans()):
        arguments["num_items_in_batch"] = items
    return arguments


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    softcap=st.sampled_from([None, 3.0]),
    chunk=st.sampled_from([1, 4, 100]),
    z_loss=st.sampled_from([0.0, 0.1]),
    training=st.booleans(),
    arguments=loss_arguments(),
)
def test_whole_and_chunked_loss_and_gradients_are_those_of_transformers(
    adapter, tied, softcap, chunk, z_loss, training, arguments
):
    if tied and adapter in ("modules_to_save", "target_parameters"):
        tied = False  # PEFT unties these itself
    model = model_with(adapter, tied, softcap)
    expected = stock(model, z_loss, training, arguments)
    for size in (None, chunk):
        got = results(model, size, z_loss, training, arguments)
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(got[name], value, atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_the_arguments_tried_are_all_that_transformers_loss_takes():
    parameters = inspect.signature(ForCausalLMLoss).parameters.keys()
    assert parameters - {"logits", "labels", "vocab_size", "kwargs"} == set(LOSS_ARGUMENTS)


@pytest.mark.parametrize("chunk", [None, 4])
def test_a_label_that_is_no_token_and_not_ignored_is_refused(chunk):
    model = model_with("none", True, None)
    model.loss_chunk_size = chunk
    labels = IDS.clone()
    for wrong in (-1, V):
        labels[0, 3] = wrong
        with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
            model(IDS, labels=labels)
    labels[0, 3] = -100
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        model(IDS, labels=labels, ignore_index=-1)


@pytest.mark.parametrize("chunk", [None, 4])
def test_as_many_labels_as_logits_are_asked_for(chunk):
    model = model_with("none", True, None)
    model.loss_chunk_size = chunk
    with pytest.raises(ValueError, match="14"):
        model(IDS, labels=IDS, logits_to_keep=2)


@pytest.mark.parametrize("change", ["loss_function", "hook", "forward"])
def test_a_changed_head_or_loss_is_used(change):
    model = model_with("none", False, None).train()
    model.loss_chunk_size, model.z_loss = 4, 0.0
    plain = model(IDS, labels=IDS)
    assert plain.logits is None
    hook = None
    try:
        if change == "loss_function":
            model.loss_function = lambda logits, labels, **kwargs: 2 * ForCausalLMLoss(logits, labels, **kwargs)
        elif change == "hook":
            hook = model.lm_head.register_forward_hook(lambda module, args, output: 2 * output)
        else:
            model.lm_head.forward = lambda x: 2 * torch.nn.functional.linear(x, model.lm_head.weight)
        changed = model(IDS, labels=IDS)
    finally:
        model.lm_head.__dict__.pop("forward", None)
        model.__dict__.pop("_loss_function", None)
        if hook:
            hook.remove()
    expected = 2 * plain.loss if change == "loss_function" else ForCausalLMLoss(2 * model(IDS).logits, IDS, V)
    torch.testing.assert_close(changed.loss, expected)
