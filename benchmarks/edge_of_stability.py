"""Full-batch gradient descent climbs to the edge of stability and stays there: λ_max ≈ 2/η.

Cohen et al. 2021 (arXiv 2103.00065): with rate η the largest Hessian eigenvalue rises ("progressive sharpening") until it
reaches 2/η, where a quadratic would diverge, and then hovers just above it while the loss goes on falling. Here a small tanh
network on the digits data bundled with scikit-learn, squared loss, trained by `train.fit` at several rates, watched by
`curvature.LambdaMax`.

    python benchmarks/edge_of_stability.py       writes docs/results/edge-of-stability.{svg,json}; some minutes on one core
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from sklearn.datasets import load_digits  # pyright: ignore[reportMissingTypeStubs]
from torch import Tensor, nn

from largebatch.core import Task
from largebatch.curvature import LambdaMax
from largebatch.recipe import Recipe
from largebatch.train import fit

RATES = (0.1, 0.14, 0.2)
SAMPLES = 500
EVERY = 20  # updates between looks
COLORS = ("#1f5fa8", "#b8460e", "#3b7d3a")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 60, 90, 40, 45  # pixels

Rows = list[dict[str, float]]


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    """Half the squared distance from the one-hot target, (n,)."""
    return (outputs - nn.functional.one_hot(targets, outputs.shape[1])).square().sum(dim=1) / 2


def network() -> nn.Sequential:
    """64-32-32-10, tanh."""
    return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10))


def descend(lr: float, updates: int, *, seed: int = 0) -> Rows:
    """λ_max on the way of full-batch gradient descent.

    Returns:
        A row for each look: update, lambda_max, residual (its error bound), sharpness_times_lr, products.
    """
    digits = load_digits()
    inputs = torch.tensor(digits.data[:SAMPLES] / 8 - 1, dtype=torch.float32)  # pyright: ignore[reportAttributeAccessIssue]
    targets = torch.tensor(digits.target[:SAMPLES])  # pyright: ignore[reportAttributeAccessIssue]
    task = Task("digits/edge", network, (inputs, targets), (inputs, targets), squared)
    recipe = Recipe(
        SAMPLES, lr=lr, momentum=0.0, nesterov=False, weight_decay=0.0, ghost_batch_size=None, schedule="constant",
        duration=f"{updates}steps",
    )  # fmt: skip
    tracker = LambdaMax(every=EVERY, tolerance=1e-2)
    fit(task, recipe, seed=seed, observers=[tracker], progress=False)
    return tracker.rows


def picture(runs: Sequence[tuple[float, Rows]]) -> str:
    """λ_max over updates as SVG, with 2/η dashed."""
    last = max(row["update"] for _, rows in runs for row in rows)
    highest = 1.3 * max(2 / lr for lr, _ in runs)

    def place(update: float, value: float) -> str:
        x = LEFT + (WIDTH - LEFT - RIGHT) * update / last
        y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(value, highest) / highest
        return f"{x:.1f},{y:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="14">Full-batch gradient descent: λ_max against 2/η</text>',
        f'<polyline fill="none" stroke="#444" points="{place(0, highest)} {place(0, 0)} {place(last, 0)}"/>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">updates, 0 to {last:g}</text>',
    ]
    for (lr, rows), color in zip(runs, COLORS, strict=False):
        edge, end = 2 / lr, place(last, 2 / lr).split(",")
        points = " ".join(place(row["update"], row["lambda_max"]) for row in rows)
        parts += [
            f'<polyline fill="none" stroke="{color}" stroke-width="1.5" points="{points}"/>',
            f'<polyline stroke="{color}" stroke-dasharray="5 4" points="{place(0, edge)} {place(last, edge)}"/>',
            f'<text x="{float(end[0]) + 6}" y="{float(end[1]) + 4}" fill="{color}">2/η = {edge:g}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Run all rates and write the picture and its numbers."""
    folder = Path(__file__).parent.parent / "docs" / "results"
    runs = [(lr, descend(lr, 4000)) for lr in RATES]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "edge-of-stability.svg").write_text(picture(runs))
    numbers = {"samples": SAMPLES, "runs": [{"lr": lr, "rows": rows} for lr, rows in runs]}
    (folder / "edge-of-stability.json").write_text(json.dumps(numbers, indent=1) + "\n")
    for lr, rows in runs:
        late = [row["sharpness_times_lr"] for row in rows[len(rows) // 2 :]]
        products = [row["products"] for row in rows[1:]]
        print(
            f"η = {lr}: η·λ_max {rows[0]['sharpness_times_lr']:.2f} at the start, {min(late):.2f} to {max(late):.2f} "
            f"over the second half, {sum(products) / len(products):.1f} products a look"
        )


if __name__ == "__main__":
    main()
