"""L(N, D) = E + A / N^alpha + B / D^beta: the loss of a run by its parameters and its training tokens.

The fit is approach 3 of "Training Compute-Optimal Large Language Models" (Hoffmann et al., 2022).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

HUBER = 1e-3  # in the logarithm of the loss: larger errors count linearly
STARTS = (0.1, 0.3, 0.5, 0.8, 1.2)  # exponents from which the fit begins
EXPONENTS, LEAST_LOG_E = (0.01, 3.0), -5.0  # bounds
SAMPLES = 200  # of the bootstrap
LEAST_SPREAD = 1e-3  # of the losses relative to their mean: a run with another seed differs by more


@dataclass(frozen=True)
class Law:
    """Loss in nats per token; N in parameters, D in tokens."""

    E: float  # the loss that no model of the family gets below
    A: float
    B: float
    alpha: float
    beta: float

    def __call__(self, parameters, tokens):
        """Return the loss of a run; takes arrays as well."""
        return self.E + self.A / np.power(parameters, self.alpha) + self.B / np.power(tokens, self.beta)

    def best_split(self, flops):
        """Return the N and D that reach the lowest loss with 6 N D = `flops` (Hoffmann et al., equation 4)."""
        share = self.beta / (self.alpha + self.beta)
        ratio = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        parameters = ratio * (np.asarray(flops) / 6) ** share
        return parameters, np.asarray(flops) / 6 / parameters


def fit_law(parameters, tokens, losses) -> Law:
    """Fit the law to the losses of runs: Huber loss on the logarithms, the best of several starts.

    Raises ValueError if the runs do not determine a law.
    """
    n, d, loss = (np.asarray(column, dtype=float) for column in (parameters, tokens, losses))
    if len(set(n)) < 3 or len(set(d)) < 3:
        raise ValueError("A law needs runs of at least three sizes and three token counts.")
    if not (np.isfinite(loss) & (loss > 0)).all():
        wrong = [f"{p:,.0f} parameters: {v}" for p, v in zip(n, loss, strict=True) if not (np.isfinite(v) and v > 0)]
        raise ValueError(f"A law needs losses that are numbers above 0; of {'; '.join(wrong)}. Leave these runs out.")
    if np.ptp(loss) < LEAST_SPREAD * loss.mean():
        same = f"The losses of all runs are nearly the same ({loss.min():.4f} to {loss.max():.4f})"
        raise ValueError(f"{same}, which determines no law: give runs of more different sizes and lengths.")
    starts = [_start(n, d, loss, alpha, beta) for alpha in STARTS for beta in STARTS]
    return min((_descend(n, d, loss, start) for start in starts), key=lambda found: found[0])[1]


def bootstrap(parameters, tokens, losses, law: Law, seed: int = 0) -> list[Law]:
    """Fit laws to runs drawn with replacement, each from `law` on: their spread is the uncertainty of the law."""
    n, d, loss = (np.asarray(column, dtype=float) for column in (parameters, tokens, losses))
    draw, laws = np.random.default_rng(seed), []
    while len(laws) < SAMPLES:
        chosen = draw.integers(len(n), size=len(n))
        if len(set(n[chosen])) > 2 and len(set(d[chosen])) > 2:
            start = np.array([*np.log([law.A, law.B, max(law.E, np.exp(LEAST_LOG_E))]), law.alpha, law.beta])
            laws.append(_descend(n[chosen], d[chosen], loss[chosen], start)[1])
    return laws


def _start(n, d, loss, alpha: float, beta: float) -> np.ndarray:
    """Return the best E, A and B, none below 0, for given exponents: the law is linear in them."""
    from scipy.optimize import nnls

    columns = np.stack([np.ones_like(n), n**-alpha, d**-beta], axis=1)
    found, _ = nnls(columns / loss[:, None], np.ones_like(loss))
    e, a, b = np.maximum(found, 1e-2)
    return np.array([np.log(a), np.log(b), np.log(e), alpha, beta])


def _descend(n, d, loss, start: np.ndarray) -> tuple[float, Law]:
    """Return the objective and the law that least squares reach from (log A, log B, log E, alpha, beta)."""
    from scipy.optimize import least_squares

    log_n, log_d, log_loss = np.log(n), np.log(d), np.log(loss)

    def terms(x):
        return np.stack([x[0] - x[3] * log_n, x[1] - x[4] * log_d, np.full_like(log_n, x[2])])  # (3, runs)

    def off(x):
        return np.logaddexp.reduce(terms(x)) - log_loss

    def slopes(x):
        a, b, e = np.exp(terms(x) - np.logaddexp.reduce(terms(x)))
        return np.stack([a, b, e, -log_n * a, -log_d * b], axis=1)  # (runs, 5)

    bounds = np.transpose([(-np.inf, np.inf)] * 2 + [(LEAST_LOG_E, np.inf), EXPONENTS, EXPONENTS])
    until = dict.fromkeys(("ftol", "xtol", "gtol"), 1e-10)
    found = least_squares(off, start, slopes, bounds, loss="huber", f_scale=HUBER, max_nfev=300, **until)
    a, b, e = np.exp(found.x[:3])
    return float(found.cost), Law(*map(float, (e, a, b, *found.x[3:])))


def draw(result: dict, path: Path) -> None:
    """Draw the result of `scale`: loss by flops with the frontier, and predicted by actual loss."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure  # pyplot would look for a screen

    law, larger, expected = Law(**result["law"]), result["actual"], result["predicted"]
    sizes = sorted({run["parameters"] for run in result["grid"]})
    colors = colormaps["viridis"](np.linspace(0, 0.85, len(sizes)))
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for size, color in zip(sizes, colors, strict=True):
        runs = [run for run in result["grid"] if run["parameters"] == size]
        tokens, losses = (np.array([run[name] for run in runs]) for name in ("tokens", "loss"))
        longer = np.geomspace(tokens.min(), 2 * tokens.max())
        left.plot(6 * size * tokens, losses, "o", color=color, label=f"{size / 1e6:.2f}M parameters")
        left.plot(6 * size * longer, law(size, longer), color=color, linewidth=1)
        right.plot(law(size, tokens), losses, "o", color=color)
    flops = [6 * run["parameters"] * run["tokens"] for run in (*result["grid"], larger)]
    flops = np.geomspace(min(flops), max(flops))
    best = np.clip(law.best_split(flops)[0], sizes[0], larger["parameters"])
    left.plot(flops, law(best, flops / 6 / best), "k--", linewidth=1, label="frontier, of these sizes")
    for axes, x in ((left, 6 * larger["parameters"] * larger["tokens"]), (right, expected["loss"])):
        axes.plot(x, larger["loss"], "*", color="crimson", markersize=13, label="larger run, not fitted")
        axes.grid(alpha=0.3)
    left.set(xscale="log", xlabel="training flops (6 N D)", ylabel="held-out loss (nats per token)")
    left.legend(fontsize=8)
    ends = [larger["loss"], max(run["loss"] for run in result["grid"])]
    right.plot(ends, ends, "k--", linewidth=1)
    right.set(xlabel="loss by the law", ylabel="loss", title=f"larger run: {result['error']:+.1%} off")
    figure.savefig(path, dpi=120)
