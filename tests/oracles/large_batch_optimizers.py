"""The papers' optimisers, written slowly and plainly in float64: one tensor after another, nothing in place.

A rule maps (weights, gradients, rate) to the weights after one update and remembers its own state. Letters as in the papers.
"""

from collections.abc import Callable

import numpy as np

Weights = list[np.ndarray]
Rule = Callable[[Weights, Weights, float], Weights]
Gradient = Callable[[Weights], Weights]


def norm(x: np.ndarray) -> float:
    return float(np.sqrt(np.sum(x**2)))


def sgd(*, momentum: float, weight_decay: float) -> Rule:
    """Goyal et al. 2017, equation 9, with their weight decay in the gradient: u ← m·u + g; w ← w - η·u."""
    u: dict[int, np.ndarray] = {}

    def update(weights: Weights, gradients: Weights, rate: float) -> Weights:
        after = []
        for layer, (w, g) in enumerate(zip(weights, gradients, strict=True)):
            u[layer] = momentum * u.get(layer, np.zeros_like(w)) + g + weight_decay * w
            after.append(w - rate * u[layer])
        return after

    return update


def adam(*, beta1: float, beta2: float, eps: float, weight_decay: float) -> Rule:
    """Kingma and Ba 2015 (arXiv 1412.6980), algorithm 1; decoupled decay as in AdamW (arXiv 1711.05101, algorithm 2)."""
    m: dict[int, np.ndarray] = {}
    v: dict[int, np.ndarray] = {}
    t = 0

    def update(weights: Weights, gradients: Weights, rate: float) -> Weights:
        nonlocal t
        t += 1
        after = []
        for layer, (w, g) in enumerate(zip(weights, gradients, strict=True)):
            m[layer] = beta1 * m.get(layer, np.zeros_like(w)) + (1 - beta1) * g
            v[layer] = beta2 * v.get(layer, np.zeros_like(w)) + (1 - beta2) * g**2
            m_hat = m[layer] / (1 - beta1**t)
            v_hat = v[layer] / (1 - beta2**t)
            after.append(w - rate * (m_hat / (np.sqrt(v_hat) + eps) + weight_decay * w))
        return after

    return update


def lars(
    *, momentum: float, weight_decay: float, trust_coefficient: float, convention: str = "paper", nesterov: bool = False
) -> Rule:
    """You, Gitman and Ginsburg 2017, algorithm 1; local rate 1 where ‖w‖ or ‖g‖ is 0."""
    v: dict[int, np.ndarray] = {}

    def update(weights: Weights, gradients: Weights, rate: float) -> Weights:
        after = []
        for layer, (w, g) in enumerate(zip(weights, gradients, strict=True)):
            if norm(w) == 0 or norm(g) == 0:
                local_rate = 1.0
            else:
                local_rate = trust_coefficient * norm(w) / (norm(g) + weight_decay * norm(w))
            d = local_rate * (g + weight_decay * w)
            before = v.get(layer, np.zeros_like(w))
            if convention == "paper":
                v[layer] = momentum * before + rate * d
                step = rate * d + momentum * v[layer] if nesterov else v[layer]
            else:
                v[layer] = momentum * before + d
                step = rate * (d + momentum * v[layer] if nesterov else v[layer])
            after.append(w - step)
        return after

    return update


def lamb(
    *,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    phi: Callable[[float], float] = lambda z: z,
) -> Rule:
    """You et al. 2020, algorithm 2; ratio 1 where φ(‖x‖) or the norm of the step is 0."""
    m: dict[int, np.ndarray] = {}
    v: dict[int, np.ndarray] = {}
    t = 0

    def update(weights: Weights, gradients: Weights, rate: float) -> Weights:
        nonlocal t
        t += 1
        after = []
        for layer, (x, g) in enumerate(zip(weights, gradients, strict=True)):
            m[layer] = beta1 * m.get(layer, np.zeros_like(x)) + (1 - beta1) * g
            v[layer] = beta2 * v.get(layer, np.zeros_like(x)) + (1 - beta2) * g**2
            m_hat = m[layer] / (1 - beta1**t)
            v_hat = v[layer] / (1 - beta2**t)
            r = m_hat / (np.sqrt(v_hat) + eps)
            s = r + weight_decay * x
            ratio = 1.0 if phi(norm(x)) == 0 or norm(s) == 0 else phi(norm(x)) / norm(s)
            after.append(x - rate * ratio * s)
        return after

    return update


def sam(rule: Rule, rho: float) -> Callable[[Weights, Gradient, float], Weights]:
    """Foret et al. 2021, algorithm 1 with p = 2: the gradient at w + ε, applied at w."""

    def update(weights: Weights, gradient: Gradient, rate: float) -> Weights:
        g = gradient(weights)
        length = np.sqrt(sum(norm(layer) ** 2 for layer in g))
        epsilon = [rho * layer / length for layer in g]
        there = [w + e for w, e in zip(weights, epsilon, strict=True)]
        return rule(weights, gradient(there), rate)

    return update


def proximal(rule: Rule, strength: float, steps: int) -> Callable[[Weights, Gradient, float], Weights]:
    """Keskar et al. 2017, appendix E: the proximal problem of one batch, by `steps` steps of a rule."""

    def update(weights: Weights, gradient: Gradient, rate: float) -> Weights:
        x = weights
        for _ in range(steps):
            g = [g + strength * (xi - x0) for g, xi, x0 in zip(gradient(x), x, weights, strict=True)]
            x = rule(x, g, rate)
        return x

    return update
