"""Dropout: masks belong to positions in the global batch, and keep their share."""

import pytest
import torch
from torch import nn

from largebatch.core import swap_dropout


def masks(model, x, bounds, key=(0, 5)):
    out = []
    for start, stop in bounds:
        for layer in model:
            layer.place(3, key, start)
        out.append(model(x[start:stop]))
    return torch.cat(out)


def test_masks_do_not_depend_on_how_the_batch_is_cut():
    model = nn.Sequential(nn.Dropout(0.3), nn.Dropout(0.5))
    assert swap_dropout(model) == list(model)
    x = torch.ones(100, 7)
    whole = masks(model, x, [(0, 100)])
    for bounds in ([(0, 33), (33, 64), (64, 100)], [(0, 1), (1, 100)], [(0, 50), (50, 50), (50, 100)]):
        assert torch.equal(masks(model, x, bounds), whole)
    assert not torch.equal(masks(model, x, [(0, 100)], key=(0, 6)), whole)


def test_the_kept_share_and_the_scale_are_those_of_dropout():
    model = nn.Sequential(nn.Dropout(0.3))
    swap_dropout(model)
    model[0].place(0, (0,), 0)
    out = model(torch.ones(4000, 50))
    n = out.numel()
    assert abs(float((out > 0).double().mean()) - 0.7) / (0.21 / n) ** 0.5 < 4
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.7], abs=1e-6)
    assert torch.equal(model.eval()(torch.ones(5)), torch.ones(5))


def test_a_layer_used_twice_draws_twice_and_stays_one_layer():
    layer = nn.Dropout(0.5)
    model = nn.Sequential(layer, nn.Identity(), layer)
    assert len(swap_dropout(model)) == 1
    assert model[0] is model[2]
    model[0].place(0, (0,), 0)
    first, second = model[0](torch.ones(64, 64)), model[0](torch.ones(64, 64))
    assert not torch.equal(first, second)
