"""The Folio model: one Transformer backbone, and a head for each task.

- token embeddings, with learned, sinusoidal, rotary or no positions (`positions.py`)
- layers (`block.py`) of attention (`attention.py`) and a feed-forward network (`feed_forward.py`), each with a
  residual connection and a normalization before or after it (`normalization.py`)
- causal (a GPT) or, with `is_causal=False`, bidirectional (an encoder)
- a head that reads the last hidden states: next token, masked token, classes of a text or of its tokens, spans
"""

import functools
import math

import torch
import transformers
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.generation import GenerationMixin
from transformers.loss.loss_utils import LOSS_MAPPING
from transformers.masking_utils import (
    create_bidirectional_mask,
    create_bidirectional_sliding_window_mask,
    create_causal_mask,
    create_sliding_window_causal_mask,
)
from transformers.modeling_outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    MaskedLMOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)
from transformers.modeling_utils import PreTrainedModel, slice_logits_to_keep
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple, logging
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .attention import FolioAttention, FolioCrossAttention
from .block import FolioDecoderLayer
from .configuration_folio import FolioConfig
from .forward_arguments import CACHE, checked_arguments
from .loss import ChunkLoss, chunked_causal_lm_loss, classification_loss, span_loss, z_loss_of
from .normalization import build_norm
from .packed_attention import VARLEN, kernel_can_run, sequence_lengths
from .positions import FolioRotaryEmbedding, build_positions
from .registration import register

# pyright: reportGeneralTypeIssues=false
# The annotation of **kwargs, by which transformers knows what they may be, names position_ids once more.

# (B, T, C) = (batch, tokens, hidden size); V = vocabulary size.

PLAIN_TENSORS = (nn.Parameter, torch.Tensor, FakeTensor)  # unlike those of quantizers and of FSDP
LOSS_ARGUMENTS = ("num_items_in_batch", "shift_labels", "ignore_index")  # of transformers' `ForCausalLMLoss`

TESTED = (5, 23), (5, 24)  # the first and the last minor version of transformers that the test suite has passed with
if not TESTED[0] <= tuple(map(int, transformers.__version__.split(".")[:2])) <= TESTED[1]:
    first, last = (".".join(map(str, version)) for version in TESTED)
    logging.get_logger(__name__).warning(
        f"FolioGPT's model code was tested with transformers {first} to {last}, and this is "
        f"{transformers.__version__}: if results look wrong, install one of those."
    )


class FolioPreTrainedModel(PreTrainedModel):
    """The base of all Folio models: initialization, and the attributes that transformers reads."""

    config: FolioConfig
    config_class = FolioConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["FolioDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": FolioDecoderLayer,
        "attentions": FolioAttention,
        "cross_attentions": FolioCrossAttention,
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # transformers skips modules without parameters of their own, so the mark is on the Linear itself.
        if getattr(module, "writes_to_residual", False):
            if self.config.residual_init == "zero":
                init.zeros_(module.weight)
            elif self.config.residual_init == "scaled":
                std = self.config.initializer_range / math.sqrt(2 * self.config.num_hidden_layers)
                init.normal_(module.weight, mean=0.0, std=std)


class FolioModel(FolioPreTrainedModel):
    """The backbone without a head: token ids (B, T) to hidden states (B, T, C)."""

    def __init__(self, config: FolioConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.embed_positions = build_positions(config)
        self.embed_scale = math.sqrt(config.hidden_size) if config.scale_embeddings else 1.0
        self.hidden_dropout = config.hidden_dropout
        config.layer_types = config.layer_types[: config.num_hidden_layers]
        self.layers = nn.ModuleList([FolioDecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        # Post-norm blocks end with a norm of their own.
        self.norm = build_norm(config) if config.norm_position == "pre" else nn.Identity()
        self.rotary_emb = FolioRotaryEmbedding(config) if config.position_embedding_type == "rope" else None
        self.gradient_checkpointing = False
        self.post_init()

    @checked_arguments
    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        encoder_hidden_states: torch.FloatTensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Compute the hidden states of `input_ids` (B, T) or of `inputs_embeds` (B, T, C).

        Several documents packed into a row stay apart if `position_ids` start at 0 with each document,
        `attention_mask` is not given and `use_cache` is False.

        Raises:
            ValueError: if both or none of `input_ids` and `inputs_embeds` are given, or if there are more tokens
                than learned positions, or `encoder_hidden_states` for a backbone without cross-attention.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        if encoder_hidden_states is not None and not self.config.add_cross_attention:
            raise ValueError(
                "encoder_hidden_states given, but this model has no cross-attention: "
                "make its config with add_cross_attention=True."
            )
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        is_causal = self.config.is_causal
        if use_cache and cache is None and is_causal:
            cache = DynamicCache(config=self.config)
            if encoder_hidden_states is not None:
                cache = EncoderDecoderCache(cache, DynamicCache(config=self.config))
        if position_ids is None:
            seen = cache.get_seq_length() if cache is not None else 0
            position_ids = (torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + seen).unsqueeze(0)

        # `generate(assistant_early_exit=n)` drafts with the first n layers.
        layers = self.layers[: self.config.num_hidden_layers]
        layer_types = [layer.attention_type for layer in layers]
        if layer_types != self.config.layer_types[: len(layers)]:  # by which caches are made
            has = self.config.layer_types
            raise ValueError(f"config.layer_types is {has}, but the layers are {layer_types}: set it to that.")
        is_plain = attention_mask is None and cache is None and self.config._attn_implementation == VARLEN
        if is_plain and kernel_can_run(self.config, inputs_embeds.device, inputs_embeds.dtype):
            masks = dict.fromkeys(layer_types)
            if is_causal and kwargs.get("cu_seq_lens_q") is None:
                kwargs["cu_seq_lens_q"] = sequence_lengths(position_ids, len(inputs_embeds))
        else:
            masks = self._attention_masks(
                set(layer_types), inputs_embeds, attention_mask, cache, position_ids, is_causal
            )
        if encoder_hidden_states is not None:
            encoder_attention_mask = create_bidirectional_mask(
                config=self.config,
                inputs_embeds=inputs_embeds,
                attention_mask=encoder_attention_mask,
                encoder_hidden_states=encoder_hidden_states,
            )

        hidden_states = inputs_embeds if self.embed_scale == 1.0 else inputs_embeds * self.embed_scale
        if self.embed_positions is not None:
            if inputs_embeds.shape[1] > self.config.max_position_embeddings:
                raise ValueError(
                    f"{inputs_embeds.shape[1]} tokens, but the model has positions for "
                    f"{self.config.max_position_embeddings}: shorten the input."
                )
            hidden_states = hidden_states + self.embed_positions(position_ids).to(hidden_states.dtype)
        if self.training and self.hidden_dropout:
            hidden_states = nn.functional.dropout(hidden_states, self.hidden_dropout)
        position_embeddings = self.rotary_emb(hidden_states, position_ids) if self.rotary_emb is not None else None

        for layer in layers:
            hidden_states = layer(
                hidden_states,
                encoder_hidden_states,  # by position: reentrant checkpointing finds gradients of those inputs only
                attention_mask=masks[layer.attention_type],
                position_embeddings=position_embeddings,
                position_ids=position_ids,
                encoder_attention_mask=encoder_attention_mask,
                use_cache=use_cache,
                **{CACHE: cache},  # by the name under which gradient checkpointing would take it away
                **kwargs,
            )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.norm(hidden_states), **{CACHE: cache if use_cache else None}
        )

    def _attention_masks(self, layer_types, inputs_embeds, attention_mask, cache, position_ids, is_causal) -> dict:
        """Make the mask for each type of layer, unless generation has prepared them already, as a dict."""
        if isinstance(attention_mask, dict):
            return attention_mask
        arguments = {
            "config": self.config,
            "inputs_embeds": inputs_embeds,
            "attention_mask": attention_mask,
            CACHE: cache if isinstance(cache, Cache) else None,
        }
        if is_causal:
            arguments["position_ids"] = position_ids
            make = {"full_attention": create_causal_mask, "sliding_attention": create_sliding_window_causal_mask}
        else:
            make = {
                "full_attention": create_bidirectional_mask,
                "sliding_attention": create_bidirectional_sliding_window_mask,
            }
        return {layer_type: make[layer_type](**arguments) for layer_type in layer_types}


class FolioForCausalLM(FolioPreTrainedModel, GenerationMixin):
    """A GPT: predicts the next token.

    `loss_chunk_size` can be set on an instance by a training loop that does not read logits: the loss is then
    computed that many tokens at a time, the logits are never all in memory, and `logits` comes back as None. A head
    that is more than a matrix, such as one with an adapter, has its loss computed from all logits. With `z_loss` the
    loss in training includes the squared logarithm of the softmax's denominator as well, with that weight.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}
    _fsdp_plan = {"lm_head": "keep_full_weight"}
    loss_chunk_size: int | None = None
    z_loss: float = 0.0

    def __init__(self, config: FolioConfig):
        super().__init__(config)
        self.model = FolioModel(config)
        self.vocab_size = config.vocab_size
        self.softcap = config.final_logit_softcapping
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.chunk_loss = ChunkLoss()
        self.post_init()

    @checked_arguments
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        encoder_hidden_states: torch.FloatTensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithCrossAttentions:
        """Compute logits (B, T, V) and, given `labels` (B, T), the mean next-token loss.

        `labels` are the inputs themselves with -100 where nothing is to be predicted; the shift happens here.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            use_cache=use_cache,
            **kwargs,
        )
        hidden_states = slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep)
        z_loss = self.z_loss if self.training else 0.0
        given = {name: kwargs[name] for name in LOSS_ARGUMENTS if name in kwargs}
        loss = logits = None
        if labels is not None and self.loss_chunk_size is not None and self._head_is_a_matrix():
            how = {"chunk_size": self.loss_chunk_size, "softcap": self.softcap, "z_loss": z_loss, **given}
            loss = chunked_causal_lm_loss(hidden_states, self.lm_head.weight, labels, **how, chunk_loss=self.chunk_loss)
        else:
            logits = self.lm_head(hidden_states)
            if self.softcap is not None:
                logits = self.softcap * torch.tanh(logits / self.softcap)
            if labels is not None:
                loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
                if z_loss:
                    loss = loss + z_loss * z_loss_of(logits, labels, **given)
        return CausalLMOutputWithCrossAttentions(
            loss=loss,
            logits=logits,
            **{CACHE: getattr(outputs, CACHE)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
        )

    def _head_is_a_matrix(self) -> bool:
        """Check that the head is a matrix without an adapter or a hook, and that the loss is transformers' own."""
        head = getattr(self.lm_head, "_orig_mod", self.lm_head)  # that of a model compiled by its parts
        is_changed = "forward" in vars(head) or head._forward_hooks or head._forward_pre_hooks
        is_plain = type(head) is nn.Linear and head.bias is None and type(head.weight) in PLAIN_TENSORS
        return is_plain and not is_changed and self.loss_function is LOSS_MAPPING["ForCausalLM"]

    @functools.wraps(GenerationMixin.prepare_inputs_for_generation)  # `generate` reads the names of its arguments
    def prepare_inputs_for_generation(self, *args, **kwargs):
        """Prepare inputs as transformers does, with the cache under its old name, too, which PEFT 0.21 reads."""
        inputs = super().prepare_inputs_for_generation(*args, **kwargs)
        is_wrapped = "prepare_inputs_for_generation" in vars(self)  # by PEFT, while it generates
        if is_wrapped and inputs.get("cache") is not None:
            inputs["past_key_values"] = inputs["cache"]
        return inputs


class FolioForMaskedLM(FolioPreTrainedModel):
    """An encoder trained to fill in masked tokens (BERT, Devlin et al., 2019). Needs `is_causal=False`."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}

    def __init__(self, config: FolioConfig):
        super().__init__(config)
        self.model = FolioModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @checked_arguments
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MaskedLMOutput:
        """Compute logits (B, T, V) and, given `labels` (B, T; -100 where a token was not masked), the mean loss."""
        outputs = self.model(input_ids, attention_mask, position_ids, inputs_embeds=inputs_embeds, **kwargs)
        logits = self.lm_head(outputs.last_hidden_state)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class FolioForSequenceClassification(FolioPreTrainedModel):
    """A classifier (or, with one label, a regressor) of whole texts.

    The head reads a causal model's last token, the only one that attends to all of the text, or an encoder's mean.
    """

    def __init__(self, config: FolioConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = FolioModel(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()

    @checked_arguments
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutputWithPast:
        """Compute logits (B, num_labels) and, given `labels` (B) or (B, num_labels), the mean loss.

        Raises:
            ValueError: if a batch has several texts and nothing tells padding apart.
        """
        outputs = self.model(
            input_ids, attention_mask, position_ids, cache, inputs_embeds, use_cache=use_cache, **kwargs
        )
        hidden_states = outputs.last_hidden_state
        is_text = self._is_text(input_ids, attention_mask, hidden_states)  # (B, T)
        if self.config.is_causal:
            positions = torch.arange(hidden_states.shape[1], device=hidden_states.device)
            last = (positions * is_text).argmax(-1)
            pooled = hidden_states[torch.arange(hidden_states.shape[0], device=hidden_states.device), last]
        else:
            weights = is_text.to(hidden_states.dtype).unsqueeze(-1)
            pooled = (hidden_states * weights).sum(1) / weights.sum(1).clamp(min=1)
        logits = self.score(pooled)
        loss = None
        if labels is not None:
            loss = classification_loss(logits, labels, self.config, kwargs.get("num_items_in_batch"))
        return SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            **{CACHE: getattr(outputs, CACHE)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _is_text(self, input_ids, attention_mask, hidden_states) -> torch.Tensor:
        """Mark the tokens that are no padding (B, T), by the mask if there is one, otherwise by the padding id."""
        if attention_mask is not None and attention_mask.dim() == 2:
            return attention_mask[:, -hidden_states.shape[1] :].to(hidden_states.device) != 0
        if input_ids is not None and self.config.pad_token_id is not None:
            return input_ids.to(hidden_states.device) != self.config.pad_token_id
        if input_ids is not None and hidden_states.shape[0] > 1:
            raise ValueError(
                "Several texts in a batch, but neither attention_mask nor config.pad_token_id tells padding apart: "
                "give one of them."
            )
        return torch.ones(hidden_states.shape[:2], dtype=torch.bool, device=hidden_states.device)


class FolioForTokenClassification(FolioPreTrainedModel):
    """A classifier of tokens: names, parts of speech."""

    def __init__(self, config: FolioConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = FolioModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.score = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @checked_arguments
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TokenClassifierOutput:
        """Compute logits (B, T, num_labels) and, given `labels` (B, T; -100 where there is none), the mean loss."""
        outputs = self.model(
            input_ids, attention_mask, position_ids, cache, inputs_embeds, use_cache=use_cache, **kwargs
        )
        logits = self.score(self.dropout(outputs.last_hidden_state))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config, **kwargs)
        return TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class FolioForQuestionAnswering(FolioPreTrainedModel):
    """A finder of the answer to a question in a text, by the tokens at its start and end."""

    def __init__(self, config: FolioConfig):
        super().__init__(config)
        self.model = FolioModel(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @checked_arguments
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        start_positions: torch.LongTensor | None = None,
        end_positions: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> QuestionAnsweringModelOutput:
        """Compute logits of start and end, each (B, T), and, given both positions (B), the mean loss of the two."""
        outputs = self.model(input_ids, attention_mask, position_ids, cache, inputs_embeds, **kwargs)
        start_logits, end_logits = self.qa_outputs(outputs.last_hidden_state).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            items = kwargs.get("num_items_in_batch")
            loss = span_loss(start_logits, end_logits, start_positions, end_positions, items)
        return QuestionAnsweringModelOutput(
            loss=loss,
            start_logits=start_logits.contiguous(),
            end_logits=end_logits.contiguous(),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


register()

__all__ = [
    "FolioForCausalLM", "FolioForMaskedLM", "FolioForQuestionAnswering", "FolioForSequenceClassification",
    "FolioForTokenClassification", "FolioModel", "FolioPreTrainedModel",
]  # fmt: skip
