"""Join the processes of `accelerate launch`, and leave them in order at the end of the program."""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
from datetime import timedelta

import torch
from accelerate import DistributedType, PartialState

from hf_cxr.arguments import SettingsError
from hf_cxr.data.decoding import default_processes

_log = logging.getLogger(__name__)


def start_processes(use_cpu: bool = False, patience: timedelta | None = None) -> PartialState:
    """Join the processes that `accelerate launch` started; to be called before anything asks which process this is.

    The process group is taken down before Python is: Gloo's threads may still hold Python objects after the last
    exchange, and a thread that asks for Python's lock while the interpreter ends aborts the process (SIGABRT after
    all the work was done; pytorch/pytorch#179291).

    Args:
        use_cpu: although there is an accelerator. Without one the CPU is named: otherwise each of several processes
            would take itself for the only one.
        patience: how long a process waits for the others; default: torch's.

    Raises:
        SettingsError: more processes were started than know of each other, or FSDP is asked for without accelerators.
    """
    waiting = {} if patience is None else {"timeout": patience}
    state = PartialState(cpu=use_cpu or not torch.accelerator.is_available(), **waiting)
    if (started := int(os.environ.get("WORLD_SIZE", "1"))) != state.num_processes:
        raise SettingsError(
            f"{started} processes were started, but each knows of {state.num_processes}: the accelerate config and the "
            "recipe disagree on CPU or GPU"
        )
    wants_shards = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if wants_shards and state.distributed_type in (DistributedType.MULTI_CPU, DistributedType.NO):
        raise SettingsError(
            "the accelerate config shards the model (FSDP), which accelerate does over several accelerators only; here "
            "each process would silently hold the whole of it. Take a config without FSDP"
        )
    atexit.register(state.destroy_process_group)
    cores = default_processes()
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ
    if launched and state.num_processes == 1 and state.device.type == "cpu" and torch.get_num_threads() == 1 < cores:
        # accelerate launch sets OMP_NUM_THREADS=1 unless told otherwise, and says nothing.
        _log.warning(
            "computing with one thread of %d cores; OMP_NUM_THREADS=%d before the command takes all", cores, cores
        )
    return state


def launch_mark() -> str | None:
    """What tells a launch from all others and is the same in each restart of its workers on a machine; 16 hex digits.

    None without `torchrun` (which `accelerate launch` uses for several processes), or if it was told to keep no logs:
    the mark is made of the name of its folder for them.
    """
    folder, found, _ = os.environ.get("TORCHELASTIC_ERROR_FILE", "").rpartition(f"{os.sep}attempt_")
    return hashlib.sha256(folder.encode()).hexdigest()[:16] if found else None
