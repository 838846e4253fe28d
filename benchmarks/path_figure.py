"""A picture of a path between two solutions, as SVG: losses on a logarithmic axis, accuracies on a linear one.

As figure 3 of Keskar et al. 2017 (arXiv 1609.04836): training solid, test dashed, α = 0 the small batch and α = 1 the large.
"""

import math
from collections.abc import Callable, Sequence

from largebatch.diagnose import Path

WIDTH, HEIGHT = 640, 400  # pixels
LEFT, RIGHT, TOP, BOTTOM = 70, 70, 60, 55
LOSS, ACCURACY = "#1f5fa8", "#b8460e"


def picture(path: Path, title: str, small: int, large: int) -> str:
    """The SVG of a path.

    Args:
        small, large: batch sizes at α = 0 and α = 1.
    """
    alphas = path.alphas
    x = _scale(alphas[0], alphas[-1], LEFT, WIDTH - RIGHT)
    losses = [value for value in (*path.train_loss, *path.test_loss) if math.isfinite(value) and value > 0]
    decades = range(math.floor(math.log10(min(losses))), math.ceil(math.log10(max(losses))) + 1)
    log_y = _scale(decades[0], decades[-1], HEIGHT - BOTTOM, TOP)
    accuracy_y = _scale(0, 100, HEIGHT - BOTTOM, TOP)

    def loss_y(value: float) -> float:
        return log_y(math.log10(max(value, 10.0 ** decades[0])))

    parts = [_text(WIDTH / 2, 20, title, anchor="middle", size=15)]
    parts += [
        _vertical(x(at), f"{at:g}") for at in (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0) if alphas[0] <= at <= alphas[-1]
    ]
    parts += [_tick(LEFT, log_y(k), f"10{_superscript(k)}", LOSS, "end") for k in decades]
    parts += [_tick(WIDTH - RIGHT, accuracy_y(v), f"{v}", ACCURACY, "start") for v in range(0, 101, 20)]
    parts += [
        _curve(alphas, path.train_loss, x, loss_y, LOSS),
        _curve(alphas, path.test_loss, x, loss_y, LOSS, dashed=True),
    ]
    for metrics, dashed in ((path.train_metrics, False), (path.test_metrics, True)):
        percent = [100 * value for value in metrics["accuracy"]]
        parts.append(_curve(alphas, percent, x, accuracy_y, ACCURACY, dashed=dashed))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts += [
        _text(18, middle, "cross-entropy", LOSS, "middle", turned=True),
        _text(WIDTH - 14, middle, "accuracy, %", ACCURACY, "middle", turned=True),
        _text(WIDTH / 2, HEIGHT - 12, f"α   (0: batch {small}, 1: batch {large})", anchor="middle"),
        *_legend(),
    ]
    inside = f'width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"'
    frame = f'<rect x="{LEFT}" y="{TOP}" {inside} fill="none" stroke="#444"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">'
    background = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    return "\n".join([head, background, *parts, frame, "</svg>", ""])


def _scale(low: float, high: float, first: float, last: float) -> Callable[[float], float]:
    return lambda value: first + (value - low) / (high - low) * (last - first)


def _curve(
    xs: Sequence[float], ys: Sequence[float], x: Callable[[float], float], y: Callable[[float], float], colour: str,
    *, dashed: bool = False,
) -> str:  # fmt: skip
    points = " ".join(f"{x(u):.1f},{y(v):.1f}" for u, v in zip(xs, ys, strict=True) if math.isfinite(v))
    style = ' stroke-dasharray="6 4"' if dashed else ""
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{style}/>'


def _vertical(x: float, label: str) -> str:
    line = f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}" stroke="#ddd"/>'
    return line + _text(x, HEIGHT - BOTTOM + 17, label, anchor="middle")


def _tick(x: float, y: float, label: str, colour: str, anchor: str) -> str:
    step = -5 if anchor == "end" else 5
    line = f'<line x1="{x}" y1="{y:.1f}" x2="{x + step}" y2="{y:.1f}" stroke="{colour}"/>'
    return line + _text(x + 1.6 * step, y + 4, label, colour, anchor)


def _text(
    x: float, y: float, text: str, colour: str = "#222", anchor: str = "start", *, size: int = 12, turned: bool = False
) -> str:  # fmt: skip
    rotation = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" font-size="{size}"{rotation}>{text}</text>'


def _legend() -> list[str]:
    parts: list[str] = []
    for i, (name, colour, dashed) in enumerate((
        ("train loss", LOSS, False), ("test loss", LOSS, True),
        ("train accuracy", ACCURACY, False), ("test accuracy", ACCURACY, True),
    )):  # fmt: skip
        x = LEFT + 128 * i
        style = ' stroke-dasharray="6 4"' if dashed else ""
        parts.append(f'<line x1="{x}" y1="42" x2="{x + 26}" y2="42" stroke="{colour}" stroke-width="2"{style}/>')
        parts.append(_text(x + 31, 46, name, colour))
    return parts


def _superscript(exponent: int) -> str:
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
