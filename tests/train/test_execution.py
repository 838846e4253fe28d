"""Execution: a device for each rank."""

import torch

from largebatch.train._execution import of_this_rank


def test_workers_of_one_machine_take_a_gpu_each_where_none_is_named():
    third = {"LOCAL_RANK": "2"}
    assert of_this_rank(torch.device("cuda"), third) == torch.device("cuda", 2)
    assert of_this_rank(torch.device("cuda"), {}) == torch.device("cuda", 0)
    assert of_this_rank(torch.device("cuda", 1), third) == torch.device("cuda", 1)
    assert of_this_rank(torch.device("cpu"), third) == torch.device("cpu")
