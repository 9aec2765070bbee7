"""The machine, and how fast it can be at all: copying memory, and multiplying matrices."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_VERSIONED = ("torch", "transformers", "datasets", "accelerate", "timm", "pillow", "torchxrayvision", "grad-cam")


def describe() -> dict[str, object]:
    """Processor, cores, memory, versions, and the measured limits."""
    model = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "processor": model or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**20, 1),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {"python": platform.python_version(), **{n: v for n in _VERSIONED if (v := _version(n))}},
        "limits": {
            "copy_gb_s": round(copy_rate() / 1e9, 1),
            "matmul_fp32_gflop_s": round(matmul_rate(torch.float32) / 1e9),
            "matmul_bf16_gflop_s": round(matmul_rate(torch.bfloat16) / 1e9),
        },
    }


@cache
def copy_rate(mib: int = 256, repeats: int = 9) -> float:
    """Bytes read and written a second by the best copy of a buffer far larger than the caches."""
    source = torch.ones(mib * 2**20, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * source.numel() / min(_seconds(lambda: target.copy_(source)) for _ in range(repeats))


@cache
def matmul_rate(dtype: torch.dtype, side: int = 4096, repeats: int = 5) -> float:
    """Floating-point operations a second of the best product of two square matrices."""
    left, right = (torch.randn(side, side).to(dtype) for _ in range(2))
    out = torch.empty(side, side, dtype=dtype)
    return 2 * side**3 / min(_seconds(lambda: torch.mm(left, right, out=out)) for _ in range(repeats))


def peak_bytes() -> int:
    """The most memory that this process, or one of its children, has held at once since it started.

    Resident pages of mapped files are among it: the kernel takes them back when it needs them.
    """
    import resource

    return 1024 * sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
