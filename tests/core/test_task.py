"""Losses are per example: a mean is refused with the fix."""

import pytest
import torch

from largebatch.core import accuracy, cross_entropy, token_cross_entropy, total, weigh


def test_a_scalar_loss_is_refused_with_the_fix():
    with pytest.raises(
        ValueError, match=r'expected one loss value per example, shape \(4,\), got a scalar.*reduction="none"'
    ):
        weigh(torch.tensor(1.0), 4)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"got \(3,\)"):
        weigh(torch.zeros(3), 4)
    with pytest.raises(ValueError, match=r"got \(4, 2\): sum over the other axes"):
        weigh(torch.zeros(4, 2), 4)
    with pytest.raises(ValueError, match=r"weights of the values' shape \(4, 2\), got \(4,\)"):
        weigh((torch.zeros(4, 2), torch.zeros(4)), 4)


def test_masked_tokens_do_not_count():
    logits = torch.randn(2, 3, 5, dtype=torch.float64)
    targets = torch.tensor([[1, -100, 2], [-100, -100, 4]])
    value, count = total(*weigh(token_cross_entropy(logits, targets), 2))
    expected = torch.nn.functional.cross_entropy(logits.reshape(-1, 5), targets.reshape(-1), reduction="sum")
    assert count == 3
    torch.testing.assert_close(value, expected)


def test_counts_without_weights_are_samples():
    values, weights = weigh(cross_entropy(torch.randn(4, 3), torch.tensor([0, 1, 2, 0])), 4)
    assert weights is None
    assert total(values, weights)[1] == 4
    assert accuracy(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 1])).tolist() == [1.0, 0.0]
