"""Squared norms of per-example gradients against the gradient of each example alone, layer by layer."""

import pytest
import torch
from torch import nn

from largebatch.core import ExampleGradients, swap_batchnorm
from small_networks import seeded

SAMPLES = 5


def normal(*shape):
    return torch.randn(SAMPLES, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def tokens(*shape):
    return torch.randint(7, (SAMPLES, *shape), generator=torch.Generator().manual_seed(1))


def assert_right(model, inputs, by_hand=()):
    """One example at a time, by plain autograd."""
    named = dict(model.named_parameters())
    examples = ExampleGradients(model, named, inputs)
    weights = torch.randn(examples.outputs.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for scale in (1.0, 2.0):  # as often as wanted
        found = examples.squared_norms(scale * weights)
        assert list(found) == list(named)
        for i in range(SAMPLES):
            value = (model(inputs[i : i + 1]) * scale * weights[i : i + 1]).sum()
            grads = torch.autograd.grad(value, list(named.values()), materialize_grads=True)
            for name, grad in zip(named, grads, strict=True):
                torch.testing.assert_close(found[name][i], grad.square().sum(), rtol=1e-10, atol=1e-12)
    assert not any(norms.requires_grad for norms in found.values())
    assert set(examples.by_hand) == set(by_hand)


LAYERS = {
    "linear": (lambda: nn.Linear(3, 4), normal(3)),
    "linear without bias": (lambda: nn.Linear(3, 4, bias=False), normal(3)),
    "linear over tokens": (lambda: nn.Linear(3, 4), normal(6, 3)),
    "linear over two axes": (lambda: nn.Linear(3, 4), normal(2, 6, 3)),
    "convolution": (lambda: nn.Conv2d(2, 3, 3), normal(2, 6, 5)),
    "strides and padding": (lambda: nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 2)), normal(2, 6, 5)),
    "dilation": (lambda: nn.Conv2d(2, 3, 2, dilation=2), normal(2, 6, 5)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), normal(4, 5, 5)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), normal(4, 5, 5)),
    "same": (lambda: nn.Conv2d(2, 3, (1, 3), dilation=2, padding="same"), normal(2, 6, 5)),
    "circular": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), normal(2, 6, 5)),
    "few pixels, many channels": (lambda: nn.Conv2d(16, 3, 3, padding=1), normal(16, 2, 2)),
    "convolution over time": (lambda: nn.Conv1d(2, 3, 3, stride=2, padding=1, dilation=2), normal(2, 9)),
    "batch norm": (lambda: nn.BatchNorm1d(4).eval(), normal(4)),
    "batch norm over time": (lambda: nn.BatchNorm1d(4).eval(), normal(4, 3)),
    "batch norm of images": (lambda: nn.BatchNorm2d(4).eval(), normal(4, 3, 2)),
    "layer norm": (lambda: nn.LayerNorm(4), normal(4)),
    "layer norm over tokens": (lambda: nn.LayerNorm(4), normal(6, 4)),
    "layer norm of images": (lambda: nn.LayerNorm((3, 2)), normal(4, 3, 2)),
    "group norm": (lambda: nn.GroupNorm(2, 4), normal(4, 3, 2)),
    "embedding": (lambda: nn.Embedding(7, 4), tokens(6)),
    "embedding with padding": (lambda: nn.Embedding(7, 4, padding_idx=2), tokens(6)),
    "embedding over two axes": (lambda: nn.Embedding(7, 4), tokens(2, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_has_the_norms_of_each_example_alone(name):
    make, inputs = LAYERS[name]
    assert_right(seeded(make), inputs)


def test_ghost_batch_norm_in_evaluation():
    model = seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU()))
    swap_batchnorm(model, 4)
    assert_right(model.eval(), normal(3))


def test_layers_that_overwrite_their_input():
    make = lambda: nn.Sequential(  # noqa: E731
        nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Flatten(),
        nn.Linear(12, 4),
    )  # fmt: skip
    assert_right(seeded(make).eval(), normal(2, 4, 4))


class Shared(nn.Module):
    """A layer called twice, once on its own output, another tied to it, and one that nothing uses."""

    def __init__(self):
        super().__init__()
        self.first, self.tied, self.idle = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(2, 2)
        self.tied.weight = self.first.weight

    def forward(self, x):
        return self.tied(torch.tanh(self.first(torch.tanh(self.first(x)))))


class Convolved(nn.Module):
    """One convolution on two images of unlike size."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x):
        h = torch.tanh(self.layer(x))
        return self.layer(h[:, :, ::2]).sum((2, 3)) + h.sum((2, 3))


def test_shared_layers_are_one_parameter():
    assert_right(seeded(Shared), normal(3))
    assert_right(seeded(Shared), normal(4, 3))
    assert_right(seeded(Convolved), normal(2, 4, 4))


class Language(nn.Module):
    def __init__(self, is_tied):
        super().__init__()
        self.embedding, self.layer, self.norm = nn.Embedding(7, 4), nn.Linear(4, 4), nn.LayerNorm(4)
        self.head = nn.Linear(4, 7, bias=False)
        if is_tied:
            self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(self.norm(torch.tanh(self.layer(self.embedding(x)) + self.embedding(x.flip(1)))))


@pytest.mark.parametrize("is_tied", [False, True])
def test_an_embedding_tied_to_the_head_is_differentiated_by_hand(is_tied):
    assert_right(seeded(lambda: Language(is_tied)), tokens(6), ["embedding.weight"] if is_tied else [])


class ByHand(nn.Module):
    """Parameters that no rule sees: alone, through a layer's weight, tokens folded into examples, an overwritten input."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(3))
        self.layer, self.folded, self.late = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3, bias=False)
        self.upsampling = nn.ConvTranspose1d(4, 2, 2)

    def forward(self, x):
        h = self.layer(x) @ self.layer.weight * self.scale
        h = self.folded(h.reshape(-1, 3)).view(x.shape)
        return self.upsampling(torch.tanh(h))


def test_what_no_rule_covers_is_differentiated_by_hand():
    hand = ["scale", "layer.weight", "folded.weight", "folded.bias", "upsampling.weight", "upsampling.bias"]
    model = seeded(ByHand)
    assert_right(model, normal(4, 3), hand)


def test_by_hand_in_pieces(monkeypatch):
    from largebatch.core import _example_norms

    monkeypatch.setattr(_example_norms, "CHUNK_BYTES", 8 * 100)
    model = seeded(lambda: nn.ConvTranspose1d(4, 2, 2))
    assert_right(model, normal(4, 3), ["weight", "bias"])


class Keyword(nn.Module):
    """A layer called by keyword shows its input to no hook, and a sparse embedding is another's business."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(input=x)


def test_a_call_that_hooks_do_not_see():
    assert_right(seeded(Keyword), normal(3), ["layer.weight", "layer.bias"])


def test_an_input_that_is_overwritten_after_the_call():
    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            x = x.clone()
            y = self.layer(x)
            x.zero_()
            return y

    model = seeded(Overwrites)
    examples = ExampleGradients(model, dict(model.named_parameters()), normal(3))
    assert examples.by_hand == ["layer.weight", "layer.bias"]


def test_only_the_chosen_parameters_count():
    model = seeded(Shared)
    examples = ExampleGradients(model, {"first.bias": model.first.bias}, normal(3))
    assert list(examples.squared_norms(torch.ones_like(examples.outputs))) == ["first.bias"]


@pytest.mark.parametrize("inputs", [normal(16, 1, 1), normal(4, 20, 20)])
def test_no_gradient_of_each_example_is_formed(inputs):
    """The largest tensor is far smaller than examples times parameters."""
    width = 128
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(inputs[0].numel(), width), nn.Linear(width, width)))
    examples = ExampleGradients(model, dict(model.named_parameters()), inputs)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            largest = max(largest, result.numel() if isinstance(result, torch.Tensor) else 0)
            return result

    with Watch():
        examples.squared_norms(torch.ones_like(examples.outputs))
    assert largest < SAMPLES * width * width / 4


def test_layers_that_couple_examples_are_refused():
    model = seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    with pytest.raises(ValueError, match="expected layers that treat examples apart, but 1 mix them in this mode"):
        ExampleGradients(model, dict(model.named_parameters()), normal(3))
