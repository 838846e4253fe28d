"""An observer that follows the largest Hessian eigenvalue through training, from the last eigenvector to the next.

Gradient descent with rate η is stable on a quadratic while λ_max < 2/η, and full-batch training climbs to that edge and
stays there (Cohen et al. 2021, arXiv 2103.00065): hence `sharpness_times_lr`. Weights move little between looks, so Lanczos
started from the last eigenvector needs 2 to 5 products where a random start needs 5 to 8.
"""

from typing import Any, final

from torch import Tensor

from largebatch.core import EpochView, Request, View, derive
from largebatch.curvature._hessian import Hessian
from largebatch.curvature._lanczos import lanczos
from largebatch.curvature._sampling import sampling_error

__all__ = ["LambdaMax"]


@final
class LambdaMax:
    """An observer that tracks λ_max of the training risk, warm-started.

    Args:
        every: updates between looks.
        tolerance: relative error bound at which a look ends.
        max_products: the most a look may cost; each is two to three passes over the samples.
        samples: look at so many samples of the training data, always the same ones; rows then hold `sampling_error`, the
            standard error of λ_max as an estimate for all of them. None: look at all.
        seed: of these samples and of the first start.
    """

    name = "lambda_max"

    def __init__(
        self,
        every: int,
        *,
        tolerance: float = 1e-2,
        max_products: int = 20,
        samples: int | None = None,
        seed: int = 0,
    ):
        self._every = every
        self._tolerance = tolerance
        self._max_products = max_products
        self._samples = samples
        self._seed = seed
        self._start: Tensor | None = None
        self.rows: list[dict[str, float]] = []
        """update, lambda_max, residual (the error bound), sharpness_times_lr (η·λ_max: 2 is the edge of stability),
        products; on a subset also sampling_error."""

    def wants(self, update: int) -> Request | None:
        """The risk, at every k-th update."""
        return Request(risk=True) if update % self._every == 0 else None

    def see(self, view: View) -> None:
        """Measure at the weights after the update."""
        assert view.risk is not None
        risk = view.risk if self._samples is None else view.risk.subset(self._samples, self._seed)
        seed = derive(self._seed, self.name, view.update)  # each look adds another random direction
        limit = min(self._max_products, risk.dimension)
        top = lanczos(Hessian(risk), tolerance=self._tolerance, max_products=limit, start=self._start, seed=seed)
        self._start = top.start
        value = float(top.values[0])
        row = {"update": view.update, "lambda_max": value, "residual": float(top.bounds[0])}
        row |= {"sharpness_times_lr": value * view.lr, "products": top.products}
        if risk is not view.risk:
            row["sampling_error"] = sampling_error(risk, top.vectors[0], population=view.risk.samples)
        self.rows.append(row)

    def see_epoch(self, view: EpochView) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Where the next look starts, and the rows so far."""
        return {"start": self._start, "rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the last look."""
        self._start = state["start"]
        self.rows = [dict(row) for row in state["rows"]]
