"""The built-in networks have the shapes, the sizes and the initial weights that the papers give them."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from largebatch.tasks import GPT, c1, c2, digits_mlp, f1, f2, resnet20, resnet50
from largebatch.tasks._resnet import PaddedShortcut, Residual


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture(autouse=True)
def _same_weights_every_time() -> object:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        (f1, 1_462_794),
        (c1, 1_757_834),
        (c2, 14_991_946),
        (partial(c1, classes=100), 1_775_204),
        (partial(c2, classes=100), 15_038_116),
        (resnet50, 25_557_032),
        (resnet20, 269_722),  # He et al. 2016, table 6: 0.27 M
    ],
)
def test_parameter_counts(model: Callable[[], nn.Module], parameters: int) -> None:
    assert _parameters(model()) == parameters


@pytest.mark.parametrize(
    ("model", "inputs", "classes"),
    [
        (f1, (2, 1, 28, 28), 10),
        (f2, (2, 360), 1973),
        (digits_mlp, (2, 64), 10),
        (c1, (2, 3, 32, 32), 10),
        (partial(c1, channels=1, size_pixels=28), (2, 1, 28, 28), 10),
        (partial(c1, channels=1, size_pixels=29), (2, 1, 29, 29), 10),
        (partial(c2, classes=100), (2, 3, 32, 32), 100),
        (resnet20, (2, 3, 32, 32), 10),
        (partial(resnet50, classes=7), (2, 3, 64, 64), 7),
    ],
)
def test_logits_per_example(model: Callable[[], nn.Module], inputs: tuple[int, ...], classes: int) -> None:
    outputs = model()(torch.randn(inputs))
    assert outputs.shape == (2, classes)
    assert bool(outputs.isfinite().all())


def test_batch_norm_is_plain() -> None:
    for model in (f1(), c1(), c2(), resnet20(), resnet50()):
        norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        assert norms
        assert {type(norm) for norm in norms} <= {nn.BatchNorm1d, nn.BatchNorm2d}


def test_c2_drops_between_the_convolutions_of_a_stage() -> None:
    # network_zoo.py, deepnet: 64 .3 64 | 128 .4 128 | 256 .4 256 .4 256 | 512 ... | 512 ... | .5 dense .5
    layout = [
        module.out_channels if isinstance(module, nn.Conv2d) else module.p if isinstance(module, nn.Dropout) else "pool"
        for module in c2().modules()
        if isinstance(module, nn.Conv2d | nn.Dropout | nn.MaxPool2d)
    ]
    deep = [512, 0.4, 512, 0.4, 512, "pool"]
    stages = [64, 0.3, 64, "pool", 128, 0.4, 128, "pool", 256, 0.4, 256, 0.4, 256, "pool"]
    assert layout == [*stages, *deep, *deep, 0.5, 0.5]


def test_resnet50_strides_on_the_3x3_convolutions() -> None:
    strided = [m for m in resnet50().modules() if isinstance(m, Residual)]
    kernels = [
        convolution.kernel_size
        for block in strided
        for convolution in block.branch
        if isinstance(convolution, nn.Conv2d) and convolution.stride == (2, 2)
    ]
    assert kernels == [(3, 3)] * 3
    assert len(strided) == 16


@pytest.mark.parametrize("model", [resnet20, resnet50])
def test_residual_blocks_start_as_identities(model: Callable[[], nn.Module]) -> None:
    blocks = [module for module in model().modules() if isinstance(module, Residual)]
    for block in blocks:
        first = block.branch[0]
        assert isinstance(first, nn.Conv2d)
        x = torch.rand(2, first.in_channels, 8, 8)
        torch.testing.assert_close(block(x), block.shortcut(x).relu())


def test_resnets_start_from_he_and_goyals_normals() -> None:
    model = resnet50()
    block = model[4]
    assert isinstance(block, Residual)
    convolution = block.branch[3]
    assert isinstance(convolution, nn.Conv2d)
    weight = convolution.weight.detach()
    assert weight.shape == (64, 64, 3, 3)
    z = (float(weight.var()) / (2 / (9 * 64)) - 1) / math.sqrt(2 / weight.numel())
    assert abs(z) < 4
    classifier = model[-1]
    assert isinstance(classifier, nn.Linear)
    z = (float(classifier.weight.detach().var()) / 0.01**2 - 1) / math.sqrt(2 / classifier.weight.numel())
    assert abs(z) < 4
    assert not bool(classifier.bias.any())


def test_the_padded_shortcut_subsamples_and_adds_zero_channels() -> None:
    x = torch.randn(1, 2, 4, 4)
    padded = PaddedShortcut(new_channels=3, stride=2)(x)
    assert padded.shape == (1, 5, 2, 2)
    assert torch.equal(padded[:, :2], x[:, :, ::2, ::2])
    assert not bool(padded[:, 2:].any())


def test_gpt_does_not_look_ahead() -> None:
    model = GPT(block_tokens=16).eval()
    tokens = torch.randint(0, 256, (1, 16))
    changed = tokens.clone()
    changed[0, 10:] = (changed[0, 10:] + 1) % 256
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :10], after[:, :10])
    assert not torch.allclose(before[:, 10], after[:, 10])


def test_gpt_starts_near_the_uniform_prediction() -> None:
    tokens = torch.randint(0, 256, (8, 129))
    loss = nn.functional.cross_entropy(GPT()(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(256), abs=0.1)


def test_gpt_scales_what_writes_into_the_residual_stream() -> None:
    model = GPT(layers=8, width=64)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            expected = 0.02 / math.sqrt(16) if name.endswith(("attention.output.weight", "mlp.2.weight")) else 0.02
            z = (float(parameter.detach().var()) / expected**2 - 1) / math.sqrt(2 / parameter.numel())
            assert abs(z) < 5, name  # 35 matrices


def test_gpt_ties_its_output_to_its_embedding() -> None:
    tied = GPT()
    assert tied.output.weight is tied.tokens.weight
    assert _parameters(tied) == _parameters(GPT(tie=False)) - 256 * 128


def test_gpt_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="a width that is a multiple of the 3 heads, got 128"):
        GPT(heads=3)
    with pytest.raises(ValueError, match="at most 8 tokens, got 9: build the model with a larger block_tokens"):
        GPT(block_tokens=8)(torch.zeros(1, 9, dtype=torch.int64))
