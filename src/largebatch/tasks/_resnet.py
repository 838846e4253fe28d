"""ResNets: ResNet-20 for CIFAR and ResNet-50 for ImageNet.

He et al. 2016 (arXiv 1512.03385): section 4.2 for CIFAR (three stages of n = 3 blocks, shortcuts without parameters:
option A), table 1 for ImageNet (bottlenecks 3, 4, 6, 3, projections where the shape changes: option B). As Goyal et al.
2017 (arXiv 1706.02677, section 5.1) train them: the stride of a bottleneck on its 3x3 convolution, the last batch norm
of every block with gamma = 0, so that blocks start as identities, convolutions as in He et al. 2015 (normal, variance
2 / fan-out), the classifier from N(0, 0.01^2).
"""

from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """relu(branch(x) + shortcut(x))."""

    def __init__(self, branch: nn.Sequential, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """x: (n, channels, height, width)."""
        return F.relu(self.branch(x) + self.shortcut(x))


class PaddedShortcut(nn.Module):
    """Option A: every `stride`-th pixel, and zeros for the channels that are new."""

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels = new_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """x: (n, channels, height, width)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


def resnet20(classes: int = 10) -> nn.Sequential:
    """Inputs (n, 3, 32, 32)."""
    blocks: list[nn.Module] = []
    channels = 16
    for width in (16, 32, 64):
        for _ in range(3):
            stride = 1 if width == channels else 2
            blocks.append(Residual(_basic_branch(channels, width, stride), PaddedShortcut(width - channels, stride)))
            channels = width
    stem = [*_convolution(3, 16, kernel=3), nn.ReLU()]
    return _initialised(nn.Sequential(*stem, *blocks, *_head(64, classes)))


def resnet50(classes: int = 1000) -> nn.Sequential:
    """Inputs (n, 3, 224, 224)."""
    blocks: list[nn.Module] = []
    channels = 64
    for width, depth in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for position in range(depth):
            stride = 2 if position == 0 and width > 64 else 1
            shortcut = nn.Identity() if position else nn.Sequential(*_convolution(channels, 4 * width, 1, stride))
            blocks.append(Residual(_bottleneck_branch(channels, width, stride), shortcut))
            channels = 4 * width
    stem = [*_convolution(3, 64, kernel=7, stride=2), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)]
    return _initialised(nn.Sequential(*stem, *blocks, *_head(2048, classes)))


def _basic_branch(channels: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        *_convolution(channels, width, 3, stride),
        nn.ReLU(),
        *_convolution(width, width, 3),
    )


def _bottleneck_branch(channels: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        *_convolution(channels, width, 1),
        nn.ReLU(),
        *_convolution(width, width, 3, stride),
        nn.ReLU(),
        *_convolution(width, 4 * width, 1),
    )


def _convolution(channels: int, width: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(width)]


def _head(channels: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


def _initialised(model: nn.Sequential) -> nn.Sequential:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
        elif isinstance(module, Residual):
            last = module.branch[-1]
            assert isinstance(last, nn.BatchNorm2d)
            nn.init.zeros_(last.weight)
    return model
