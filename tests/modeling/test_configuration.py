"""FolioConfig refuses contradictions, and presets and sizes are what they say."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from foliogpt.modeling import PRESETS, SIZES, FolioConfig, FolioForCausalLM, preset_config


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"hidden_size": 100, "num_attention_heads": 3, "num_key_value_heads": 3}, ["100", "3", "102"]),
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, ["4", "3", "[1, 2, 4]"]),
        ({"head_dim": 31}, ["31", "32"]),
        ({"hidden_size": 0}, ["hidden_size", "0"]),
        ({"layer_types": ["full_attention"]}, ["1", "4"]),
        ({"layer_types": ["sliding_attention"] * 4}, ["sliding_window"]),
        ({"layer_types": ["chunked_attention"] * 4}, ["chunked_attention", "full_attention"]),
        ({"hidden_act": "sulu"}, ["sulu", "silu"]),
        ({"add_cross_attention": True, "is_causal": False}, ["add_cross_attention", "is_causal"]),
        (
            {"hidden_size": 33, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 34,
             "position_embedding_type": "sinusoidal"},
            ["33", "34"],
        ),
    ],
)  # fmt: skip
def test_a_contradiction_is_refused_with_both_numbers(fields, named):
    with pytest.raises(StrictDataclassError) as error:
        FolioConfig(**fields)
    assert all(word in str(error.value) for word in named), str(error.value)


def test_a_kind_of_rope_that_does_not_exist_is_refused():
    """It would be computed as the default one."""
    with pytest.raises(ValueError, match=r"rope_type is 'spiral'.*default, linear"):
        preset_config("folio", rope_parameters={"rope_type": "spiral", "rope_theta": 10_000.0})


def test_a_value_of_the_wrong_kind_is_refused():
    with pytest.raises(StrictDataclassError, match="norm_type"):
        FolioConfig(norm_type="batchnorm")


def test_presets_refuse_with_a_plain_value_error():
    with pytest.raises(ValueError, match=r"^num_attention_heads \(4\) is not a multiple"):
        preset_config(num_key_value_heads=3)


def test_unknown_preset_and_size_list_those_that_exist():
    with pytest.raises(ValueError, match="vaswani, gpt2, llama"):
        preset_config("gpt5")
    with pytest.raises(ValueError, match="nano, micro, mini"):
        preset_config("folio", "huge")


@pytest.mark.parametrize(
    ("size", "vocab_size", "millions"),
    [("nano", 4096, 1.3), ("micro", 4096, 5.5), ("mini", 4096, 25.7), ("small", 50257, 114), ("medium", 50257, 330)],
)
def test_sizes_have_the_parameters_they_promise(size, vocab_size, millions):
    with torch.device("meta"):
        model = FolioForCausalLM(preset_config("folio", size, vocab_size=vocab_size))
    assert model.num_parameters() / 1e6 == pytest.approx(millions, rel=0.02)


def test_gpt2_preset_at_size_small_is_gpt2():
    with torch.device("meta"):
        model = FolioForCausalLM(preset_config("gpt2", "small", vocab_size=50257, max_position_embeddings=1024))
    assert model.num_parameters() == 124_439_808


def test_feed_forward_width_follows_the_hidden_size():
    assert FolioConfig(hidden_size=256).intermediate_size == 704  # 8/3 of it, up to a multiple of 64
    assert FolioConfig(hidden_size=256, gated_mlp=False).intermediate_size == 1024


@pytest.mark.parametrize("preset", PRESETS)
def test_a_config_survives_saving(preset, tmp_path):
    config = preset_config(preset, "nano", vocab_size=300)
    config.save_pretrained(tmp_path)
    assert FolioConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_every_size_names_the_same_fields():
    assert len({frozenset(fields) for fields in SIZES.values()}) == 1


def test_another_number_of_layers_than_was_saved_is_loaded(tiny, tmp_path):
    FolioForCausalLM(tiny(layer_types=["sliding_attention", "full_attention"], sliding_window=4)).save_pretrained(
        tmp_path
    )
    for count, last in ((1, "sliding_attention"), (2, "full_attention"), (3, "sliding_attention")):
        model = FolioForCausalLM.from_pretrained(tmp_path, num_hidden_layers=count)
        assert len(model.model.layers) == len(model.config.layer_types) == count
        assert model.config.layer_types[-1] == model.model.layers[-1].attention_type == last
        model.save_pretrained(tmp_path / str(count))
        assert FolioForCausalLM.from_pretrained(tmp_path / str(count)).config.num_hidden_layers == count


def test_layers_in_an_order_that_the_config_does_not_know_are_refused(tiny):
    """A cache made by the config would forget what a full layer needs."""
    model = FolioForCausalLM(tiny(layer_types=["sliding_attention", "full_attention"], sliding_window=4))
    model.model.layers = model.model.layers[::-1]
    ids = torch.arange(2, 8)[None]
    with pytest.raises(ValueError, match=r"config.layer_types is .* set it"):
        model(ids)
    model.config.layer_types = model.config.layer_types[::-1]
    model(ids)
