"""Random numbers: named streams, keyed by sample, uniform."""

import torch

from largebatch.core import derive, generator, uniform_per_sample


def test_streams_are_named_and_repeatable():
    assert derive(1, "order", 0) == derive(1, "order", 0)
    assert len({derive(s, p, k) for s in range(5) for p in ("order", "weights") for k in range(5)}) == 50
    assert torch.equal(torch.rand(3, generator=generator(1, "a")), torch.rand(3, generator=generator(1, "a")))


def test_a_samples_numbers_do_not_depend_on_its_batch():
    whole = uniform_per_sample(3, "flip", 2, torch.arange(100), 4)
    some = torch.tensor([7, 99, 3])
    assert torch.equal(uniform_per_sample(3, "flip", 2, some, 4), whole[some])
    assert not torch.equal(uniform_per_sample(3, "flip", 3, some, 4), whole[some])


def test_numbers_are_uniform_and_uncorrelated():
    n = 200_000
    u = uniform_per_sample(0, "test", 0, torch.arange(n // 2), 2)
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    assert abs(float(u.mean()) - 0.5) / (1 / 12 / n) ** 0.5 < 4
    counts = torch.histc(u, 20, 0, 1)
    chi2 = float(((counts - n / 20) ** 2 / (n / 20)).sum())
    assert abs(chi2 - 19) / (2 * 19) ** 0.5 < 4
    centred = u - 0.5
    assert abs(float((centred[:, 0] * centred[:, 1]).mean())) * 12 * (n / 2) ** 0.5 < 4
    assert abs(float((centred[1:, 0] * centred[:-1, 0]).mean())) * 12 * (n / 2) ** 0.5 < 4
