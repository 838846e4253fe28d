"""One function for each type of result: from a study's tables to the figures that show them.

Nothing is estimated here that the study has not, but means over seeds: an interval is either a 95 % t-interval over seeds or
two standard errors over samples, and the caption says which.
"""

import math
from collections.abc import Iterable, Sequence

import torch

from largebatch.comparison import LookRow, PathRow, PlaneRow, SpectrumRow, StudyResult, measure_name
from largebatch.report._curves import over_seeds
from largebatch.report._figure import Axis, Figure, Rule, Series, Surface, View, spans_decades

__all__ = [
    "look_figures",
    "measured",
    "path_figures",
    "plane_figures",
    "spectrum_figures",
]

STDERRS = 2.0
GRID, SMOOTHING = (
    400,
    0.01,
)  # points of a density, and its Gaussian's width as a share of the eigenvalues' range: our choice

CURVATURE = ("sharpness_times_lr", "lambda_max")
GRADIENTS = ("batch_cosine", "step_cosine", "noise_scale", "gradient_norm")
UNITS = {"noise_scale": "samples"}
EDGE = Rule("y", 2.0, "2: edge of stability of plain gradient descent")


def measured(study: StudyResult) -> list[str]:
    """The measurements made at the end of runs, by their keys, in the order they were made."""
    return list(dict.fromkeys(row.key for row in study.measurements))


def look_figures(looks: Sequence[LookRow]) -> list[Figure]:
    """Curvature and gradients while training."""
    over = (
        "Means over seeds (geometric ones where the axis is logarithmic) with their 95 % t-intervals, at the updates "
        "that were looked at. "
    )
    edge = "λ_max is that of the training loss; momentum and Adam have other edges than 2 (Cohen et al. 2021)."
    gradients = (
        "g_full is the gradient over the samples looked at; cos(g_t, g_t+j) is that of two full gradients, one look apart; "
        "the noise scale is tr(Σ)/|G|² (McCandlish et al. 2018)."
    )
    return [
        Figure(key, title, over + more, views)
        for key, title, more, names in (
            ("curvature", "Curvature while training", edge, CURVATURE),
            ("gradients", "Gradients while training", gradients, GRADIENTS),
        )
        if (views := [view for name in names for view in _look_views(looks, name)])
    ]


def _look_views(looks: Sequence[LookRow], name: str) -> Iterable[View]:
    words = ", ".join(filter(None, (measure_name(name), UNITS.get(name))))
    told = [look for look in looks if math.isfinite(look.values.get(name, math.nan))]
    log = spans_decades([look.values[name] for look in told])
    rules = (EDGE,) if name == "sharpness_times_lr" else ()
    for by in ("epochs", "updates") if told else ():
        series: list[Series] = []
        for cell in dict.fromkeys(look.cell for look in told):
            by_seed: dict[int, list[tuple[float, float]]] = {}
            for look in told:
                if look.cell == cell:
                    at = look.epoch if by == "epochs" else look.update + 1.0
                    by_seed.setdefault(look.seed, []).append((at, look.values[name]))
            x, mean, low, high = over_seeds(by_seed.values(), log=log)
            series += [Series(cell, x, mean, low, high, cell=cell)] if x else []
            series += [
                Series(f"{cell}, seed {seed}", *zip(*points, strict=True), cell=cell, seed=seed, one_run=True)
                for seed, points in by_seed.items()
            ]
        yield View(words, Axis(by, log=True), Axis(words, log), series, rules=rules, by=by)


def path_figures(rows: Sequence[PathRow], kind: str = "path") -> list[Figure]:
    """Loss and accuracy between two solutions, as figure 3 of Keskar et al. 2017 (arXiv 1609.04836)."""
    if not rows:
        return []
    barriers = "; ".join(
        f"{row.a} → {row.b}, seed {row.seed}: barrier {row.path.barrier:.3g} at α = {row.path.barrier_alpha:.2g}, "
        f"distance {row.path.distance:.3g}" for row in rows
    )  # fmt: skip
    how = "α = 0 is the first cell's solution, α = 1 the second's. Solid: training data; dashed: test data. "
    bands = "Bands are ± 2 standard errors over samples. "
    losses = [value for row in rows for value in (*row.path.train_loss, *row.path.test_loss)]
    ends = (Rule("x", 0.0, "α = 0"), Rule("x", 1.0, "α = 1"))
    x = Axis("α")
    loss = View("loss", x, Axis("loss", spans_decades(losses)), [s for r in rows for s in _path_losses(r)], rules=ends)
    figures = [Figure(f"{kind}-loss", f"Loss along the {kind}", f"{how}{bands}{barriers}.", [loss])]
    series = [s for r in rows for s in _path_accuracies(r)]
    if series:
        view = View("accuracy", x, Axis("accuracy, %"), series, rules=ends)
        figures.append(Figure(f"{kind}-accuracy", f"Accuracy along the {kind}", how, [view]))
    return figures


def _path_losses(row: PathRow) -> Iterable[Series]:
    told = ((row.path.train_loss, row.path.train_stderr, False), (row.path.test_loss, row.path.test_stderr, True))
    for loss, stderr, is_test in told:
        if loss:
            low = [v - STDERRS * e for v, e in zip(loss, stderr, strict=True)]
            high = [v + STDERRS * e for v, e in zip(loss, stderr, strict=True)]
            name = _path_name(row)
            yield Series(f"{name}, {'test' if is_test else 'train'}", row.path.alphas, loss, low, high, row.b, row.seed,
                         dashed=is_test, legend=name)  # fmt: skip


def _path_accuracies(row: PathRow) -> Iterable[Series]:
    for metrics, is_test in ((row.path.train_metrics, False), (row.path.test_metrics, True)):
        if "accuracy" in metrics:
            y = [100 * value for value in metrics["accuracy"]]
            name = _path_name(row)
            yield Series(f"{name}, {'test' if is_test else 'train'}", row.path.alphas, y, cell=row.b, seed=row.seed,
                         dashed=is_test, legend=name)  # fmt: skip


def _path_name(row: PathRow) -> str:
    return f"{row.a} → {row.b}, seed {row.seed}"


def plane_figures(rows: Sequence[PlaneRow]) -> list[Figure]:
    """Contours around solutions, one figure each, all in the same colours: Li et al. 2018 (arXiv 1712.09913)."""
    values = [v for row in rows for grid in (row.plane.train_loss, row.plane.test_loss) for line in grid for v in line]
    positive = [value for value in values if math.isfinite(value) and value > 0]
    if not positive:
        return []
    limits = (min(positive), max(positive))
    return [_plane_figure(f"plane-{i}", row, limits) for i, row in enumerate(rows)]


def _plane_figure(key: str, row: PlaneRow, limits: tuple[float, float]) -> Figure:
    plane = row.plane
    unit = "in units of its length" if plane.normalisation == "none" else f"{plane.normalisation}-normalised"
    x, y = Axis(f"first direction, {unit}"), Axis(f"second direction, {unit}")
    views = [
        View(name, x, y, surface=Surface(plane.xs, plane.ys, list(zip(*grid, strict=True)), limits, name), square=True)
        for name, grid in (("training loss", plane.train_loss), ("test loss", plane.test_loss)) if grid
    ]  # fmt: skip
    caption = (
        "The cross is the solution. Colours are logarithmic, and the same in all planes of this page: steep and flat can "
        f"be compared. Batch-norm statistics: {plane.batch_norm}."
    )
    return Figure(key, f"Around {row.cell}, seed {row.seed}", caption, views)


def spectrum_figures(rows: Sequence[SpectrumRow]) -> list[Figure]:
    """Density of the Hessian's eigenvalues, and both its ends."""
    if not rows:
        return []
    series = [one for row in rows if (one := _density(row)) is not None]
    told = "; ".join(
        f"{row.cell}, seed {row.seed}: {_trace(row)}{row.spectrum.dimension} weights, {row.spectrum.samples} samples"
        for row in rows
    )
    ends = [end for row in rows for end in _ends(row)]
    figures = [
        Figure(
            "spectrum-ends", "Both ends of the Hessian's spectrum",
            f"Its largest and its smallest eigenvalues with the error bounds of Lanczos. {told}.",
            [View("eigenvalues", Axis("rank, from either end", ticks=range(1, 11)), Axis("eigenvalue"), ends)],
        )
    ]  # fmt: skip
    if series:
        smooth = (
            f"Smoothed by a Gaussian of {100 * SMOOTHING:g} % of the range. Bands are ± 2 standard errors over probes."
        )
        view = View("density", Axis("eigenvalue"), Axis("density per unit of eigenvalue", log=True), series)
        figures.insert(0, Figure("spectrum", "Density of the Hessian's spectrum", smooth, [view]))
    return figures


def _density(row: SpectrumRow) -> Series | None:
    density = row.spectrum.density
    if density is None:
        return None
    low, high = float(density.nodes.min()), float(density.nodes.max())
    width = SMOOTHING * ((high - low) or 1.0)
    grid = torch.linspace(low - 4 * width, high + 4 * width, GRID, dtype=torch.float64)
    curve, error = density.pdf(grid, width)
    seen = curve > 1e-6 * curve.max()  # the Gaussians' tails say nothing
    x, y, e = (values.where(seen, torch.nan) for values in (grid, curve, error))
    name = f"{row.cell}, seed {row.seed}"
    return Series(
        name, x.tolist(), y.tolist(), (y - STDERRS * e).tolist(), (y + STDERRS * e).tolist(), row.cell, row.seed
    )


def _ends(row: SpectrumRow) -> Iterable[Series]:
    spectrum = row.spectrum
    for name, values, bounds in (
        ("largest", spectrum.top, spectrum.top_bounds),
        ("smallest", spectrum.bottom, spectrum.bottom_bounds),
    ):
        if values:
            low = [v - b for v, b in zip(values, bounds, strict=True)]
            high = [v + b for v, b in zip(values, bounds, strict=True)]
            ranks = [float(rank + 1) for rank in range(len(values))]
            yield Series(
                f"{row.cell}, seed {row.seed}, {name}", ranks, values, low, high, row.cell, row.seed, points=True
            )


def _trace(row: SpectrumRow) -> str:
    trace = row.spectrum.trace
    if trace is None:
        return ""
    return f"trace {trace.value:.4g} [{trace.low:.4g}, {trace.high:.4g}], "
