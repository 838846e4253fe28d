"""The Pareto front as a picture: hours against worker-hours, each point a number of workers."""

from largebatch.plan._plan import Plan, PlanRow
from largebatch.results import Chart, Series

__all__ = ["picture"]

_SHOWN = 200


def picture(plan: Plan, title: str) -> str:
    """The plan as SVG, in the currency where there is a price, else in worker-hours.

    Args:
        title: what is planned.
    """
    rows = plan.shown(_SHOWN)
    priced = rows[0].price is not None
    cost = "price" if priced else "worker-hours"

    def point(row: PlanRow) -> tuple[float, float]:
        return row.hours, (row.price or 0.0) if priced else row.worker_hours

    front = sorted((row for row in rows if row.best), key=lambda row: row.hours)
    beaten = [row for row in rows if not row.best]
    stop = [row for row in rows if row.workers == plan.stop_at]
    series = [Series("not beaten", [point(row) for row in front], labels=[_workers(row) for row in front])]
    if beaten:
        labels = [_workers(row) for row in beaten]
        series.append(Series("beaten in both", [point(row) for row in beaten], line=False, labels=labels))
    series.append(Series(f"stop at {plan.stop_at} workers", [point(row) for row in stop], line=False))
    return Chart(title, "hours to the target", cost, series).svg()


def _workers(row: PlanRow) -> str:
    return str(row.workers)
