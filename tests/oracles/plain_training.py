"""Training written plainly in float64: the whole global batch at once, ghosts by definition, SGD by Goyal's form (9).

Shares no code with the package but the order of the samples, which is given.
"""

import torch

from oracles import ghost_batchnorm


def train(parameters, running, batches, rates, *, ghost, momentum, weight_decay, nesterov, eps=1e-5):
    """A two-layer perceptron with one batch norm: W1 x + b1, norm, tanh, W2 x + b2, mean cross-entropy.

    parameters: [W1, b1, scale, shift, W2, b2]; running: (mean, variance); batches: (inputs, targets) per update.
    No decay on biases and norm. Returns the parameters, the running statistics and the losses.
    """
    weights = [p.clone().double().requires_grad_() for p in parameters]
    velocity = [torch.zeros_like(p) for p in weights]
    decayed = [True, False, False, False, True, False]
    mean, var = running
    losses = []
    for (x, y), rate in zip(batches, rates, strict=True):
        w1, b1, scale, shift, w2, b2 = weights
        hidden = x @ w1.T + b1
        mean, var = ghost_batchnorm.running(hidden.detach(), mean, var, ghost, 0.1)
        logits = torch.tanh(ghost_batchnorm.normalise(hidden, scale, shift, ghost, eps)) @ w2.T + b2
        loss = -(torch.log_softmax(logits, 1)[torch.arange(len(y)), y]).sum() / len(y)
        grads = torch.autograd.grad(loss, weights)
        losses.append(float(loss.detach()))
        with torch.no_grad():
            for p, v, g, decays in zip(weights, velocity, grads, decayed, strict=True):
                g = g + weight_decay * p if decays else g  # noqa: PLW2901
                v.mul_(momentum).add_(g)
                p.sub_(rate * (g + momentum * v if nesterov else v))
    return [p.detach() for p in weights], (mean, var), losses
