"""One Transformer block forwards and backwards by hand, in NumPy: the block of the preset `folio`.

    x = x + attention(rms_norm(x))        causal, with RoPE, QK-norm and grouped queries
    x = x + mlp(rms_norm(x))              SwiGLU

What autograd does: each function here has a partner `..._backward` which takes `d_y`, the gradient of the loss with
respect to its output, and returns that with respect to its inputs. A forward pass keeps what its partner needs. Weights
and gradients go by the names that `FolioDecoderLayer` gives them. (B, T, C) = (batch, tokens, width); H heads of D.
"""

import numpy as np

Array = np.ndarray


def linear(x: Array, weight: Array) -> Array:
    """y = x W^T: x (..., C) and weight (O, C) -> (..., O)."""
    return x @ weight.T


def linear_backward(d_y: Array, x: Array, weight: Array) -> tuple[Array, Array]:
    """y_o = sum_c W_oc x_c, so x_c collects sum_o d_y_o W_oc, and W_oc collects d_y_o x_c from every token."""
    d_weight = d_y.reshape(-1, d_y.shape[-1]).T @ x.reshape(-1, x.shape[-1])
    return d_y @ weight, d_weight


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """y = r x w with r = 1 / sqrt(mean(x^2) + eps), over the last dimension (Zhang and Sennrich, 2019)."""
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps) * weight


def rms_norm_backward(d_y: Array, x: Array, weight: Array, eps: float) -> tuple[Array, Array]:
    """x_j acts on y_i in two ways: directly, where i = j, and through r, whose derivative is dr/dx_j = -r^3 x_j / C.

        d_x_j = r d_y_j w_j - r^3 x_j mean_i(d_y_i w_i x_i)

    The second term takes away what would only lengthen x, since its length makes no difference.
    """
    r = 1 / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps)
    d_scaled = d_y * weight
    d_x = r * d_scaled - r**3 * x * np.mean(d_scaled * x, axis=-1, keepdims=True)
    d_weight = (d_y * x * r).reshape(-1, x.shape[-1]).sum(axis=0)
    return d_x, d_weight


def silu(x: Array) -> tuple[Array, Array]:
    """x s(x) with the sigmoid s, and its derivative s + x s (1 - s)."""
    s = 0.5 * (1 + np.tanh(x / 2))  # 1 / (1 + exp(-x)) that cannot overflow
    return x * s, s + x * s * (1 - s)


def softmax(x: Array) -> Array:
    """exp(x_i) / sum_j exp(x_j) along the last dimension."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def softmax_backward(d_p: Array, p: Array) -> Array:
    """dp_i/dx_j = p_i ([i = j] - p_j), so d_x_j = p_j (d_p_j - sum_i p_i d_p_i): better than the average, or worse."""
    return p * (d_p - np.sum(p * d_p, axis=-1, keepdims=True))


def rope_tables(tokens: int, head_dim: int, theta: float = 10_000.0) -> tuple[Array, Array]:
    """cos and sin (T, D/2) of the angle by which RoPE turns pair i at position t: t theta^(-2i/D) (Su et al., 2021)."""
    angles = np.arange(tokens)[:, None] * theta ** (-np.arange(0, head_dim, 2) / head_dim)
    return np.cos(angles), np.sin(angles)


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Turn each pair (a, b) = (x_i, x_{i + D/2}) to (a cos - b sin, b cos + a sin): x (..., T, D).

    A rotation's transpose turns back, so the backward pass is `rotate(d_y, cos, -sin)`.
    """
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate((a * cos - b * sin, b * cos + a * sin), axis=-1)


def attention(q: Array, k: Array, v: Array) -> tuple[Array, Array]:
    """softmax(q k^T / sqrt(D)) v where no token sees a later one; all (B, H, T, D). Also the weights p (B, H, T, T)."""
    scores = q @ k.swapaxes(-2, -1) / np.sqrt(q.shape[-1])
    future = np.triu(np.ones(scores.shape[-2:], dtype=bool), k=1)
    p = softmax(np.where(future, -np.inf, scores))
    return p @ v, p


def attention_backward(d_y: Array, q: Array, k: Array, v: Array, p: Array) -> tuple[Array, Array, Array]:
    """Two matrix products and a softmax, each undone in turn. Of Y = P V: d_P = d_Y V^T and d_V = P^T d_Y.

    The mask needs no care: where p is 0, softmax lets no gradient through.
    """
    d_v = p.swapaxes(-2, -1) @ d_y
    d_scores = softmax_backward(d_y @ v.swapaxes(-2, -1), p) / np.sqrt(q.shape[-1])
    return d_scores @ k, d_scores.swapaxes(-2, -1) @ q, d_v


def split_heads(x: Array, head_dim: int) -> Array:
    """(B, T, H D) -> (B, H, T, D)"""
    return x.reshape(*x.shape[:2], -1, head_dim).swapaxes(1, 2)


def merge_heads(x: Array) -> Array:
    """(B, H, T, D) -> (B, T, H D)"""
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


def share_heads(x: Array, groups: int) -> Array:
    """Copy each key-value head for the `groups` query heads that share it (Ainslie et al., 2023)."""
    return np.repeat(x, groups, axis=1)


def share_heads_backward(d_y: Array, groups: int) -> Array:
    """Add up the gradients of all copies of a head."""
    batch, heads, tokens, head_dim = d_y.shape
    return d_y.reshape(batch, heads // groups, groups, tokens, head_dim).sum(axis=2)


def block(x: Array, weights: dict[str, Array], head_dim: int, eps: float = 1e-6) -> tuple[Array, dict]:
    """One block forwards: x (B, T, C) -> (B, T, C), and what the backward pass needs."""
    w = {name.removesuffix(".weight"): value for name, value in weights.items()}
    cos, sin = rope_tables(x.shape[1], head_dim)

    x_normed = rms_norm(x, w["input_layernorm"], eps)
    q_raw = split_heads(linear(x_normed, w["self_attn.q_proj"]), head_dim)
    k_raw = split_heads(linear(x_normed, w["self_attn.k_proj"]), head_dim)  # (B, H_kv, T, D)
    v_raw = split_heads(linear(x_normed, w["self_attn.v_proj"]), head_dim)
    groups = q_raw.shape[1] // k_raw.shape[1]
    q = rotate(rms_norm(q_raw, w["self_attn.q_norm"], eps), cos, sin)
    k = share_heads(rotate(rms_norm(k_raw, w["self_attn.k_norm"], eps), cos, sin), groups)
    v = share_heads(v_raw, groups)
    heads, p = attention(q, k, v)
    attended = merge_heads(heads)
    x_middle = x + linear(attended, w["self_attn.o_proj"])

    x_middle_normed = rms_norm(x_middle, w["post_attention_layernorm"], eps)
    gate, slope = silu(linear(x_middle_normed, w["mlp.gate_proj"]))
    up = linear(x_middle_normed, w["mlp.up_proj"])
    y = x_middle + linear(gate * up, w["mlp.down_proj"])

    saved = {"w": w, "eps": eps, "cos": cos, "sin": sin, "groups": groups, "x": x, "x_normed": x_normed}
    saved |= {"q_raw": q_raw, "k_raw": k_raw, "q": q, "k": k, "v": v, "p": p, "attended": attended}
    saved |= {"x_middle": x_middle, "x_middle_normed": x_middle_normed, "gate": gate, "slope": slope, "up": up}
    return y, saved


def block_backward(d_y: Array, saved: dict) -> tuple[Array, dict[str, Array]]:
    """Go the same way back: return the gradients with respect to x (B, T, C) and to the weights, by their names."""
    w, eps = saved["w"], saved["eps"]
    grads = {}

    # y = x_middle + mlp(rms_norm(x_middle)): the residual stream hands d_y on as it is, and the branch adds its share.
    d_hidden, grads["mlp.down_proj"] = linear_backward(d_y, saved["gate"] * saved["up"], w["mlp.down_proj"])
    d_gate = d_hidden * saved["up"] * saved["slope"]  # of a product: each factor times the other's value
    d_up = d_hidden * saved["gate"]
    d_from_gate, grads["mlp.gate_proj"] = linear_backward(d_gate, saved["x_middle_normed"], w["mlp.gate_proj"])
    d_from_up, grads["mlp.up_proj"] = linear_backward(d_up, saved["x_middle_normed"], w["mlp.up_proj"])
    d_branch, grads["post_attention_layernorm"] = rms_norm_backward(
        d_from_gate + d_from_up, saved["x_middle"], w["post_attention_layernorm"], eps
    )
    d_middle = d_y + d_branch

    # x_middle = x + attention(rms_norm(x))
    d_attended, grads["self_attn.o_proj"] = linear_backward(d_middle, saved["attended"], w["self_attn.o_proj"])
    d_heads = split_heads(d_attended, saved["q"].shape[-1])
    d_q, d_k, d_v = attention_backward(d_heads, saved["q"], saved["k"], saved["v"], saved["p"])
    d_k, d_v = share_heads_backward(d_k, saved["groups"]), share_heads_backward(d_v, saved["groups"])
    d_normed = 0.0
    for name, d, raw in (("q", d_q, saved["q_raw"]), ("k", d_k, saved["k_raw"]), ("v", d_v, None)):
        if raw is not None:  # queries and keys were normalized, then rotated
            d = rotate(d, saved["cos"], -saved["sin"])
            d, grads[f"self_attn.{name}_norm"] = rms_norm_backward(d, raw, w[f"self_attn.{name}_norm"], eps)
        d_from, grads[f"self_attn.{name}_proj"] = linear_backward(
            merge_heads(d), saved["x_normed"], w[f"self_attn.{name}_proj"]
        )
        d_normed += d_from
    d_branch, grads["input_layernorm"] = rms_norm_backward(d_normed, saved["x"], w["input_layernorm"], eps)
    return d_middle + d_branch, {f"{name}.weight": grad for name, grad in grads.items()}
