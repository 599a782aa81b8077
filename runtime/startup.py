"""Steps before JAX is first used: joining the other processes, the cache of compiled programs, memory."""

import ctypes
import os
import socket
import sys
import threading

from morphism.errors import UserError
from morphism.runtime.paths import cache_folder

ANNOUNCED_S = 10  # after which a process that waits for others to join says so
HEARTBEAT_S = 30  # a process that is silent for this long counts as lost, and the others end


def start_jax(
    distributed: bool = False,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Prepares JAX, and with `distributed` joins the other processes of the run.

    coordinator: host:port of process 0.
    num_processes: how many there are.
    process_id: the number of this one, from 0.

    Raises UserError if the processes do not find each other.
    """
    import jax  # here, so that --help does not wait for it

    keep_freed_memory()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", compilation_cache())
    join = (coordinator, num_processes, process_id)
    if not distributed:
        if any(value is not None for value in join):
            raise UserError("--coordinator, --num_processes and --process_id go with --distributed")
        return
    if coordinator is not None and not coordinator.rpartition(":")[2].isdigit():
        raise UserError(f"--coordinator={coordinator}: give the host and the port of process 0, such as host:1234")
    if process_id is not None and num_processes is not None and not 0 <= process_id < num_processes:
        raise UserError(f"--process_id={process_id}: of {num_processes} processes; give 0 to {num_processes - 1}")
    if coordinator is not None and process_id == 0:
        _check_free(coordinator)
    where = f" at {coordinator}" if coordinator else ""
    waiting = threading.Timer(
        ANNOUNCED_S, print, (f"waiting for the other processes of the run{where}",), {"file": sys.stderr, "flush": True}
    )
    waiting.daemon = True
    waiting.start()
    try:
        jax.distributed.initialize(*join, heartbeat_timeout_seconds=HEARTBEAT_S)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--distributed: {reason}; give --coordinator, --num_processes and --process_id") from error
    finally:
        waiting.cancel()


def _check_free(coordinator: str) -> None:
    """Raises UserError if another process listens at the port: JAX would crash."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the port of a process that has ended is free
        try:
            probe.bind(("", int(coordinator.rpartition(":")[2])))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"--coordinator={coordinator}: {reason}; choose another port") from error


def compilation_cache() -> str | None:
    """A writable folder in the user's cache, or None: a container's user may have no home."""
    try:
        cache = cache_folder("jax")
        cache.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no HOME, and the system has no entry for this user
        return None
    return str(cache) if os.access(cache, os.W_OK) else None


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next allocation; does nothing without glibc.

    On CPU every step allocates its buffers again. Returning them to the system and faulting them in again, page by
    page, costs a small network a fifth of its time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(_M_MMAP_THRESHOLD, 2**30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, 2**26)


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of malloc.h
