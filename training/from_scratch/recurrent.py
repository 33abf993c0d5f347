"""Recurrent language models: a layer of an RNN and of an LSTM written out, and a model of PyTorch's faster layers.

(B, T, C) = (batch, tokens, width); H = hidden size. The weights are those of `nn.RNN` and `nn.LSTM`.
"""

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutput


def rnn(x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    """h_t = tanh(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh): x (B, T, C) -> all h (B, T, H) (Elman, 1990)."""
    h, states = x.new_zeros(len(x), len(w_hh)), []
    for x_t in x.unbind(1):
        h = torch.tanh(x_t @ w_ih.T + b_ih + h @ w_hh.T + b_hh)
        states.append(h)
    return torch.stack(states, dim=1)


def lstm(x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    """c_t = f c_(t-1) + i g and h_t = o tanh(c_t): x (B, T, C) -> all h (B, T, H) (Hochreiter and Schmidhuber, 1997).

    The weights have 4 H rows: the gates i (input), f (forget), the candidate g, the gate o (output). The cell c
    changes by a sum, so its gradient is multiplied by f alone: if f is near 1, the gradient lasts.
    """
    h = c = x.new_zeros(len(x), w_hh.shape[1])
    states = []
    for x_t in x.unbind(1):
        i, f, g, o = (x_t @ w_ih.T + b_ih + h @ w_hh.T + b_hh).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        states.append(h)
    return torch.stack(states, dim=1)


class RecurrentForCausalLM(nn.Module):
    """A language model of recurrent layers, "rnn" or "lstm", that `train` can train: ids (B, T) -> logits (B, T, V)."""

    def __init__(self, vocab_size: int, hidden_size: int, num_layers: int = 1, kind: str = "lstm"):
        super().__init__()
        if kind not in ("rnn", "lstm"):
            raise ValueError(f"There is no recurrent layer {kind!r}: choose rnn or lstm.")
        layer = nn.RNN if kind == "rnn" else nn.LSTM
        self.embed_tokens = nn.Embedding(vocab_size, hidden_size)
        self.layers = layer(hidden_size, hidden_size, num_layers, batch_first=True)
        self.lm_head = nn.Linear(hidden_size, vocab_size, bias=False)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> CausalLMOutput:
        if use_cache:
            raise ValueError("A recurrent model has no key-value cache: set use_cache=False.")
        states, _ = self.layers(self.embed_tokens(input_ids))
        return CausalLMOutput(logits=self.lm_head(states))
