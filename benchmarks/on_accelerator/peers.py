"""What contenders of this project and of torch share."""

import os
from collections.abc import Callable

from served import Row


def jax_memory() -> Row:
    """The most that this process has had on the device; nothing on CPU."""
    from morphism.runtime import peaks

    found = peaks.memory().get("device")
    return {"memory_gb": found / 1e9} if found else {}


def torch_memory() -> Row:
    import torch

    return {"memory_gb": torch.cuda.max_memory_allocated() / 1e9} if torch.cuda.is_available() else {}


def torch_device() -> str:
    """Where torch's contenders run, at the speed that its users have: cuDNN chooses by timing, TF32 for float32."""
    import torch

    if not torch.cuda.is_available():
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        return "cpu"
    torch.backends.cudnn.benchmark = torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    return "cuda"


def repeated(once: Callable[[], None], calls: int, device: str) -> Callable[[], None]:
    import torch

    def run() -> None:
        for _ in range(calls):
            once()
        if device == "cuda":
            torch.cuda.synchronize()

    return run
