"""Small files as torch 2.13 writes them, in both of its formats, and what torch holds them to be.

pip install torch==2.13.0 numpy; python tests/goldens/make_torch_files.py
"""

import argparse
import datetime
import os
import random
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent / "torch_files"


class Program:
    """What a pickle can do to its reader."""

    def __reduce__(self):
        return os.system, ("touch torch_file_ran_a_program",)


def state_dict() -> OrderedDict:
    """Every dtype and every way that a tensor can lie in its storage."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(60, generator=generator)
    norm = torch.nn.BatchNorm2d(3)
    norm.running_mean += values[:3]
    norm(values.reshape(1, 3, 4, 5))
    found = OrderedDict((f"bn.{name}", value) for name, value in norm.state_dict().items())
    found["conv.weight"] = torch.nn.Parameter(values[:24].reshape(4, 3, 2, 1))
    found["whole"] = values
    found["transposed"] = values.reshape(6, 10).T
    found["slice"] = values.reshape(6, 10)[1:5:2, 3:]
    found["expanded"] = values[7].expand(2, 3)
    found["channels_last"] = values[:48].reshape(2, 3, 4, 2).contiguous(memory_format=torch.channels_last)
    found["number"] = torch.tensor(3.5)
    found["empty"] = torch.zeros(0, 4)
    for dtype in ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64"):
        found[dtype] = (values[:6] * 50).to(getattr(torch, dtype))
    return found


def beside() -> dict:
    """What training scripts save beside tensors."""
    parameter, tensor = torch.nn.Parameter(torch.ones(2)), torch.ones(2)
    parameter.decays = tensor.tagged = False
    return {
        "args": argparse.Namespace(lr=0.1, output=Path("runs"), sizes=[1, 2]),
        "best": [np.float64(71.2), np.float32(1), np.bool_(True), np.arange(3), np.dtype("f4"), np.float16],
        "random": (random.getstate(), np.random.get_state(), np.random.default_rng(0), torch.get_rng_state()),
        "kinds": (torch.device("cuda:0"), torch.bfloat16, torch.Size([1, 2]), torch.strided, torch.__version__),
        "sets": ({1, "a"}, frozenset([2]), Counter("aab"), deque([1]), defaultdict(list, a=[1])),
        "plain": (slice(1, 2), range(3), 1 + 2j, 10**40, -5, b"bytes", bytearray(b"x"), "\udc80é😀", None),
        "times": (datetime.datetime(2020, 1, 1), datetime.timedelta(1)),
        "keys": {(1, 2): 3, 4: {"weight": tensor}, "parameter": parameter, "tensor": tensor},
    }


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().numpy() if tensor.dtype == torch.bfloat16 else tensor.detach().numpy()


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    tensors = state_dict()
    np.savez_compressed(FOLDER / "expected.npz", **{name: as_numpy(value) for name, value in tensors.items()})
    torch.save(tensors, FOLDER / "zip.pth")
    torch.save(tensors, FOLDER / "old.pth", _use_new_zipfile_serialization=False)
    tensors["uint16"] = torch.tensor([0, 1, 2, 3, 4], dtype=torch.uint16)
    tensors["float8"] = torch.arange(5.0).to(torch.float8_e4m3fn)
    torch.save({name: tensors[name] for name in ("uint16", "float8")}, FOLDER / "untyped.pth")
    parallel = {f"module.{name}": value for name, value in torch.nn.Linear(2, 3).state_dict().items()}
    settings = {"epoch": 7, "rates": [0.1, 0.01], "dtype": torch.float16, "shape": torch.Size([2, 3])}
    torch.save({"model": {"state_dict": parallel}, "settings": settings}, FOLDER / "checkpoint.pth")
    for name, old in (("zip", False), ("old", True)):
        content = {"weight": torch.ones(2), "hook": Program()}
        torch.save(content, FOLDER / f"program_{name}.pth", _use_new_zipfile_serialization=not old)
    torch.save(torch.nn.Linear(2, 3), FOLDER / "module.pth")
    torch.save({"epoch": 7, "name": "no tensors"}, FOLDER / "no_tensors.pth")
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    averaged = torch.optim.swa_utils.AveragedModel(network, use_buffers=True)
    averaged.module[0].weight.data.fill_(2)
    content = {"model": torch.compile(network).state_dict(), "model_ema": averaged.state_dict(), **beside()}
    torch.save(content, FOLDER / "settings_zip.pth")
    torch.save(content, FOLDER / "settings_old.pth", _use_new_zipfile_serialization=False, pickle_protocol=4)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), FOLDER / "script.pth")
