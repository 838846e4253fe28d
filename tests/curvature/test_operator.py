"""Operators are whatever has a shape and a product."""

import pytest
import torch

from largebatch.curvature import CallableOperator, as_operator, hutchpp, lanczos
from small_networks import columns, symmetric


class BySize:
    """As in hessian-eigenthings: a size and a method."""

    def __init__(self, matrix):
        self.matrix, self.size, self.dtype, self.device = matrix, len(matrix), matrix.dtype, matrix.device

    def matvec(self, vector):
        return self.matrix @ vector


class Nameless:
    """A shape and a product, and no word on dtype and device."""

    def __init__(self, matrix):
        self.matrix, self.shape = matrix, matrix.shape

    def __matmul__(self, vector):
        return self.matrix @ vector


def test_what_has_a_shape_and_a_product_is_solved():
    matrix, _ = symmetric([5.0, 3.0, 1.0, -2.0])
    wrapped = CallableOperator(4, lambda vector: matrix @ vector, torch.float64)
    for thing in (matrix, wrapped, BySize(matrix)):
        torch.testing.assert_close(columns(as_operator(thing)), matrix)
        assert lanczos(thing, 2).values.tolist() == pytest.approx([5.0, 3.0], rel=1e-9)
    assert as_operator(wrapped) is wrapped
    single = Nameless(matrix.float())
    assert as_operator(single).dtype is torch.float32
    assert float(lanczos(single).values) == pytest.approx(5.0, rel=1e-5)


@pytest.mark.parametrize("solve", [lanczos, hutchpp, as_operator])
def test_what_is_no_symmetric_matrix_is_refused(solve):
    with pytest.raises(TypeError, match="expected something with `shape` and `@`, got function: wrap a function"):
        solve(lambda vector: vector)
    with pytest.raises(ValueError, match=r"expected a square symmetric matrix, got shape \(3, 2\)"):
        solve(torch.zeros(3, 2))


def test_operators_of_curvlinops_are_solved_and_agree_with_ours():
    curvlinops = pytest.importorskip("curvlinops")
    from torch import nn

    from largebatch.core import Risk, cross_entropy
    from largebatch.curvature import GGN, Hessian
    from small_networks import perceptron, seeded, vectors

    model, data = seeded(perceptron).eval(), vectors()
    risk = Risk(model, cross_entropy, data, batch_size=4)
    for theirs, ours in ((curvlinops.HessianLinearOperator, Hessian), (curvlinops.GGNLinearOperator, GGN)):
        operator = theirs(model, nn.CrossEntropyLoss(), list(model.parameters()), [data], check_deterministic=False)
        torch.testing.assert_close(columns(ours(risk)), columns(operator), rtol=1e-10, atol=1e-12)
        theirs_found, ours_found = (lanczos(matrix, 3, tolerance=1e-8).values for matrix in (operator, ours(risk)))
        torch.testing.assert_close(theirs_found, ours_found, rtol=1e-6, atol=0)
