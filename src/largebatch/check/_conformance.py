"""Anybody's LARS, LAMB or SAM against the paper: the same quadratic, the same rates, and how far the weights end apart.

Published ports differ from the papers and from one another in silence: at weight decay 0, in the first step, and where
the rate changes (the paper's LARS keeps it inside the momentum buffer).
"""

import importlib
import importlib.util
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from largebatch.check._papers import LAMB, LARS, SGD, Rule, sam_update
from largebatch.culprits import Finding
from largebatch.results import Result

__all__ = ["Conformance", "ConformanceCase", "conformance"]

Paper = Literal["lars", "lamb", "sam"]
PAPERS: tuple[Paper, ...] = ("lars", "lamb", "sam")

MOMENTUM, TRUST, BETAS, EPS, RHO = 0.9, 1e-3, (0.9, 0.999), 1e-6, 0.05
UPDATES = 20
TOLERANCE = 1e-4  # float64 agrees to 1e-12; ports that add an ε to a norm are off by 1e-7

TRUST_NAMES = ("trust_coefficient", "trust_coeff", "trust_coef", "eta", "trust")


@dataclass(frozen=True)
class ConformanceCase(Result):
    """One setting.

    Args:
        name: what is special about it.
        updates: made.
        ratio: ‖w − w₀‖ of the optimiser ÷ that of the paper's algorithm.
        deviation: ‖w − w_paper‖ ÷ ‖w_paper − w₀‖.
    """

    name: str
    updates: int
    ratio: float
    deviation: float

    @property
    def agrees(self) -> bool:
        """Whether rounding explains the difference."""
        return self.deviation <= TOLERANCE


@dataclass(frozen=True)
class Conformance(Result):
    """How an optimiser compares with its paper.

    Args:
        verdict: "pass", or "fail" where a case differs in a way the paper does not allow.
        optimizer: its name.
        paper: "lars", "lamb" or "sam".
    """

    verdict: Literal["pass", "fail"]
    optimizer: str
    paper: str
    findings: tuple[Finding, ...]
    cases: tuple[ConformanceCase, ...]

    @property
    def passed(self) -> bool:
        """Whether it is the paper's."""
        return self.verdict == "pass"

    def text(self) -> str:
        """For reading."""
        lines = [f"{self.verdict}: {self.optimizer} against the paper's {self.paper.upper()}"]
        lines += [
            f"  {c.name}, {c.updates} update(s): ratio {c.ratio:.4g}, deviation {c.deviation:.1e}" for c in self.cases
        ]
        return "\n".join(lines) + "\n" + "".join(finding.text() for finding in self.findings)


@dataclass(frozen=True)
class _Setting:
    name: str
    decay: float
    rates: tuple[float, ...]
    scale: float = 1.0  # of the weights


def _settings(paper: Paper) -> list[_Setting]:
    constant, warmup = (0.5,) * UPDATES, tuple(0.5 * (i + 1) / UPDATES for i in range(UPDATES))
    if paper == "sam":
        return [_Setting("constant rate", 0.0, (0.1,) * UPDATES)]
    if paper == "lamb":
        constant, warmup = (0.01,) * UPDATES, tuple(0.01 * (i + 1) / UPDATES for i in range(UPDATES))
    return [
        _Setting("first step", 0.01, constant[:1]),
        _Setting("constant rate", 0.01, constant),
        _Setting("first step without decay", 0.0, constant[:1]),
        _Setting("constant rate without decay", 0.0, constant),
        _Setting("warmup", 0.01, warmup),
        *([_Setting("large weights", 0.01, constant, scale=10.0)] if paper == "lamb" else []),
    ]


def conformance(optimizer: str | type, paper: Paper | None = None) -> Conformance:
    """Hold an optimiser class against the paper it is named after.

    Args:
        optimizer: a class, or where to find one: "module:Class" or "path/to/file.py:Class".
        paper: what it claims to be; by default its name tells.

    Raises:
        ValueError: the class cannot be found or made, or its name does not tell the paper.
    """
    made = _load(optimizer) if isinstance(optimizer, str) else optimizer
    claimed: Paper | None = paper or next((name for name in PAPERS if name in made.__name__.lower()), None)
    if claimed is None:
        raise ValueError(
            f"optimizer: expected LARS, LAMB or SAM in the name, got {made.__name__}; say which with --paper"
        )
    cases, by_torch = [], {}
    for setting in _settings(claimed):
        theirs = _theirs(made, claimed, setting)
        cases.append(_compared(setting, theirs, _papers(claimed, setting)))
        if claimed == "lars":
            by_torch[setting.name] = _compared(setting, theirs, _papers(claimed, setting, rate_inside=False))
    found = tuple(_judge(made.__name__, claimed, cases, by_torch))
    wrong = any(finding.severity == "wrong" for finding in found)
    return Conformance("fail" if wrong else "pass", made.__name__, claimed, found, tuple(cases))


def _load(name: str) -> type:
    where, _, attribute = name.rpartition(":")
    try:
        if where.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(where).stem, where)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(where)
        return getattr(module, attribute)
    except (ImportError, AttributeError, FileNotFoundError, ValueError) as error:
        raise ValueError(
            f"optimizer: expected module:Class that can be imported here, got {name!r} ({error}); for example "
            "largebatch.train:LARS or my_optimizers.py:LARS"
        ) from None


def _start(scale: float) -> list[Tensor]:
    """Two matrices whose norms are below 10, where some ports of LAMB clip φ."""
    g = torch.Generator().manual_seed(0)
    return [scale * torch.randn(8, 8, generator=g, dtype=torch.float64) / 2,
            scale * torch.randn(4, 6, generator=g, dtype=torch.float64)]  # fmt: skip


def _gradient(weights: Sequence[Tensor]) -> list[Tensor]:
    """Of Σ_i c_i (w_i − 1)²/2 with unequal c, of norm below 1, where some ports clip."""
    return [torch.linspace(0.01, 0.1, w.numel(), dtype=w.dtype).view_as(w) * (w - 1) for w in weights]


def _papers(paper: Paper, setting: _Setting, *, rate_inside: bool = True) -> list[Tensor]:
    weights = _start(setting.scale)
    rule: Rule = SGD()
    if paper == "lars":
        rule = LARS(MOMENTUM, setting.decay, TRUST, rate_inside=rate_inside)
    elif paper == "lamb":
        rule = LAMB(BETAS, EPS, setting.decay)
    for rate in setting.rates:
        if paper == "sam":
            weights = sam_update(rule, weights, _gradient, rate, RHO)
        else:
            weights = rule.update(weights, _gradient(weights), rate)
    return weights


def _theirs(made: type, paper: Paper, setting: _Setting) -> list[Tensor]:
    weights = [w.requires_grad_() for w in _start(setting.scale)]
    optimizer = _make(made, paper, weights, setting)

    def gradient(*args: Any, **kwargs: Any) -> Tensor:
        for w, g in zip(weights, _gradient([w.detach() for w in weights]), strict=True):
            w.grad = g
        return torch.zeros(())

    for rate in setting.rates:
        for group in optimizer.param_groups:
            group["lr"] = rate
        gradient()
        if paper != "sam":
            optimizer.step()
        elif hasattr(optimizer, "first_step"):
            optimizer.first_step()
            gradient()
            optimizer.second_step()
        else:
            optimizer.step(gradient)
    return [w.detach() for w in weights]


def _make(made: type, paper: Paper, weights: list[Tensor], setting: _Setting) -> Any:
    """The optimiser with the paper's settings, under the names that ports give them."""
    try:
        accepted = inspect.signature(made).parameters
        if paper == "sam":
            first = next(iter(accepted))
            if first == "params":
                base: Any = torch.optim.SGD if "base_optimizer" in accepted else None
                return made(weights, base, rho=RHO, lr=setting.rates[0])
            return made(torch.optim.SGD(weights, lr=setting.rates[0]), rho=RHO)
        options: dict[str, Any] = {"lr": setting.rates[0], "weight_decay": setting.decay}
        if paper == "lars":
            trust = next((name for name in TRUST_NAMES if name in accepted), None)
            options |= {"momentum": MOMENTUM} | ({trust: TRUST} if trust else {})
        else:
            options |= {"betas": BETAS, "eps": EPS}
        return made(weights, **options)
    except TypeError as error:
        raise ValueError(
            f"optimizer: expected {made.__name__} to take the settings of {paper.upper()} by their usual names "
            f"(lr, weight_decay, {'momentum' if paper == 'lars' else 'betas, eps'}), got: {error}; wrap it in a "
            "function's class"
        ) from None


def _compared(setting: _Setting, theirs: Sequence[Tensor], papers: Sequence[Tensor]) -> ConformanceCase:
    start = _start(setting.scale)

    def distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
        return float(torch.stack([(x - y).norm() for x, y in zip(a, b, strict=True)]).norm())

    length = distance(papers, start)
    return ConformanceCase(
        setting.name, len(setting.rates), distance(theirs, start) / length, distance(theirs, papers) / length
    )


def _judge(
    name: str, paper: Paper, cases: Sequence[ConformanceCase], by_torch: dict[str, ConformanceCase]
) -> list[Finding]:
    by_name = {case.name: case for case in cases}
    off = [case for case in cases if not case.agrees]
    found = []
    for case in off:
        if case.name == "warmup" and paper == "lars" and by_torch["warmup"].agrees:
            found.append(Finding(
                "rate_outside_momentum", "unusual",
                f"{name} agrees with the paper at a constant rate, but keeps the rate outside the momentum buffer: after a "
                f"warmup of {case.updates} updates it is {100 * case.deviation:.0f} % off",
                "the convention of torch.optim.SGD; papers' rates were tuned with the other one (largebatch.train.LARS "
                "has both)",
                ratio=case.ratio,
            ))  # fmt: skip
        elif case.name == "large weights":
            found.append(Finding(
                "weight_norm_clipped", "unusual",
                f"{name} clips ‖w‖ in the trust ratio: with weights of norm above 10 its step is {case.ratio:.3g} × "
                "that for φ(z) = z",
                "the paper allows φ to clip; its experiments and most readers mean φ(z) = z", ratio=case.ratio,
            ))  # fmt: skip
    rest = [case for case in off if case.name not in ("large weights", "warmup")]
    if not rest and any(case.name == "warmup" for case in off) and not found:
        rest = [by_name["warmup"]]
    return ([_wrong(name, paper, rest, by_name)] if rest else []) + found


def _wrong(name: str, paper: Paper, off: list[ConformanceCase], by_name: dict[str, ConformanceCase]) -> Finding:
    worst = max(off, key=lambda case: case.deviation)
    without = {"first step without decay", "constant rate without decay"}
    first = by_name.get("first step")
    if {case.name for case in off} <= without:
        culprit, why = "trust_ratio_skipped", "the trust ratio is left out at weight_decay=0"
    elif first is not None and not first.agrees and by_name["constant rate"].ratio < 0.9 * first.ratio:
        usual = "a buffer that starts at the raw gradient" if paper == "lars" else "bias correction in another place"
        culprit, why = "first_step_wrong", f"the first step is not scaled as the later ones are; often {usual}"
    else:
        culprit, why = "not_the_papers", "its steps are not those of the algorithm"
    ours = paper.upper()
    return Finding(
        culprit,
        "wrong",
        f"{name}: {worst.name}: {worst.ratio:.4g} × the paper's length after {worst.updates} update(s), "
        f"{100 * worst.deviation:.0f} % off: {why}",
        f"use an implementation that passes, such as largebatch.train.{ours}, or a version or option of yours that does",
        ratio=worst.ratio,
    )
