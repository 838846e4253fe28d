"""Optimisers against the papers' algorithms: ours pass, and ports with known deviations are named."""

import pytest
import torch

from largebatch import check, train


class _Port(torch.optim.Optimizer):
    """A plain LARS whose deviations are switched on by subclasses."""

    skips_without_decay = raw_first_buffer = rate_inside = False
    trust_is_off = 1.0

    def __init__(self, params, lr, momentum=0.9, weight_decay=0.0, trust_coefficient=1e-3):
        super().__init__(params, {"lr": lr, "momentum": momentum, "wd": weight_decay, "trust": trust_coefficient})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for w in group["params"]:
                g, decay = w.grad, group["wd"]
                ratio = self.trust_is_off * group["trust"] * w.norm() / (g.norm() + decay * w.norm())
                if self.skips_without_decay and decay == 0:
                    ratio = 1.0
                d = ratio * (g + decay * w)
                before = self.state[w].get("buffer", torch.zeros_like(w))
                first = self.raw_first_buffer and "buffer" not in self.state[w]
                self.state[w]["buffer"] = buffer = g.clone() if first else group["momentum"] * before + d
                w.sub_(group["lr"] * buffer)


class OutsideLars(_Port):
    pass


class SkippingLars(_Port):
    skips_without_decay = True


class RawFirstLars(_Port):
    raw_first_buffer = True


class OtherLars(_Port):
    trust_is_off = 1.1


@pytest.mark.parametrize("name", ["LARS", "LAMB", "SAM"])
def test_ours_are_the_papers(name):
    result = check.conformance(f"largebatch.train:{name}")
    assert result.passed
    assert result.findings == ()
    assert max(case.deviation for case in result.cases) < 1e-10


@pytest.mark.parametrize(
    ("port", "culprit", "verdict"),
    [
        (OutsideLars, "rate_outside_momentum", "pass"),
        (SkippingLars, "trust_ratio_skipped", "fail"),
        (RawFirstLars, "first_step_wrong", "fail"),
        (OtherLars, "not_the_papers", "fail"),
    ],
)
def test_deviations_have_names(port, culprit, verdict):
    result = check.conformance(port)
    assert culprit in [f.culprit for f in result.findings]
    assert result.verdict == verdict


def test_a_first_step_from_the_raw_gradient_is_hundreds_of_times_too_long():
    (found, *_) = check.conformance(RawFirstLars).findings
    assert found.ratio > 100


def test_the_command(capsys):
    from largebatch.cli import main

    assert main(["check", "--optimizer", "largebatch.train:LARS"]) == 0
    assert capsys.readouterr().out.startswith(
        "pass: LARS against the paper's LARS\n  first step, 1 update(s): ratio 1,"
    )
    assert main(["check", "--optimizer", f"{__file__}:SkippingLars"]) == 1
    assert "the trust ratio is left out at weight_decay=0" in capsys.readouterr().out
    assert main(["check", "--optimizer", "no.such:Class"]) == 2
    assert "optimizer: expected module:Class that can be imported here, got 'no.such:Class'" in capsys.readouterr().err


def test_a_class_whose_paper_is_not_told():
    with pytest.raises(ValueError, match="expected LARS, LAMB or SAM in the name, got SGD; say which with --paper"):
        check.conformance(torch.optim.SGD)


def test_a_class_with_other_settings():
    class StrangeLars(train.LARS):
        def __init__(self, params, speed):
            super().__init__(params, speed)

    with pytest.raises(ValueError, match="expected StrangeLars to take the settings of LARS by their usual names"):
        check.conformance(StrangeLars)
