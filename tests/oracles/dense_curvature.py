"""Curvature matrices entry by entry, in float64, by functional differentiation of the full batch's mean loss."""

import torch
from torch.func import functional_call, jacrev


def flat(tree, names):
    """A dictionary of dictionaries of blocks as one (P, P) matrix."""
    rows = [torch.cat([tree[a][b].flatten(tree[a][b].dim() - _rank(tree, b)) for b in names], -1) for a in names]
    return torch.cat([row.reshape(-1, row.shape[-1]) for row in rows])


def _rank(tree, name):
    return tree[name][name].dim() // 2


def named(model, names=None):
    return {n: p.detach() for n, p in model.named_parameters() if names is None or n in names}


def dense_hessian(model, mean_loss, names=None):
    """(P, P) of `mean_loss(call)`, where `call(x)` is the model at the parameters that are differentiated."""
    parameters = named(model, names)
    blocks = jacrev(jacrev(lambda p: mean_loss(lambda x: functional_call(model, p, (x,)))))(parameters)
    return flat(blocks, list(parameters)).detach()


def dense_gauss_newton(model, inputs, output_hessians, names=None):
    """(P, P): Σ J'·H_L·J / n, with the loss's Hessian by the outputs (n, C, C) written down by the caller."""
    parameters = named(model, names)
    blocks = jacrev(lambda p: functional_call(model, p, (inputs,)))(parameters)
    jacobian = torch.cat([blocks[n].flatten(2) for n in parameters], 2)  # (n, C, P)
    return torch.einsum("nca,ncd,ndb->ab", jacobian, output_hessians, jacobian).detach() / len(inputs)
