"""Memory of a device: how much is to be had, and whether it was refused."""

import os
from pathlib import Path

import torch

__all__ = ["free_bytes", "is_out_of_memory"]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the system, refused memory, so that a smaller pass could help.

    Not all say so by the type: on a CPU torch raises a plain RuntimeError.
    """
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def free_bytes(device: torch.device) -> float:
    """Memory to be had on a device, in bytes; infinite where nobody tells."""
    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + idle)
    memory = Path("/proc/meminfo")
    if memory.exists():
        lines = dict(line.split(":", 1) for line in memory.read_text().splitlines())
        return min(float(lines["MemAvailable"].split()[0]) * 1024, _left_in_group())
    names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
    if "SC_AVPHYS_PAGES" in names:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return float("inf")


def _left_in_group() -> float:
    """What a container may still take: its limit is below what the machine has."""
    group = Path("/sys/fs/cgroup")
    limit, used = group / "memory.max", group / "memory.current"
    if not limit.exists() or not used.exists() or limit.read_text().strip() == "max":
        return float("inf")
    return float(limit.read_text()) - float(used.read_text())
