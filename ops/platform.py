"""The kind of device that a function is traced for, which decides the form of some operations.

GPUs and TPUs run XLA's own operations, whole batches at once and loops as loops. Some of those are slow on CPU, where
an equivalent replaces them: see benchmarks/train_step.py. TPUs read and write at computed addresses one element at a
time, so that products of matrices replace some gathers there. All forms compute the same values.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

_FORM: ContextVar[str] = ContextVar("form", default="")
_TARGET: ContextVar[str] = ContextVar("target", default="")


def backend() -> str:
    """What programs are compiled for, whatever form they take: "cpu", "gpu" or "tpu"."""
    return _TARGET.get() or jax.default_backend()


def on_cpu() -> bool:
    """Whether the code being traced takes its form for CPUs."""
    return (_FORM.get() or backend()) == "cpu"


def on_gpu() -> bool:
    """Whether the code being traced is for GPUs. The form that `as_accelerator` takes is for any accelerator."""
    return (_FORM.get() or backend()) == "gpu"


def on_tpu() -> bool:
    """Whether the code being traced takes its form for TPUs."""
    return (_FORM.get() or backend()) == "tpu"


@contextmanager
def as_accelerator() -> Iterator[None]:
    """Code that is traced inside this context takes its form for GPUs, on any device.

    models/cost.py counts those operations, and tests run both forms on CPU. The cache of jax.jit ignores the context: a
    function that was traced outside keeps its form.
    """
    with _traced_as("accelerator"):
        yield


@contextmanager
def as_tpu() -> Iterator[None]:
    """Code that is traced inside this context takes its form for TPUs, on any device; otherwise as `as_accelerator`."""
    with _traced_as("tpu"):
        yield


@contextmanager
def as_cpu() -> Iterator[None]:
    """Code that is traced inside this context takes its form for CPUs, on any device; otherwise as `as_accelerator`."""
    with _traced_as("cpu"):
        yield


@contextmanager
def compiling_for(kind: str) -> Iterator[None]:
    """Programs that are traced inside this context are for devices of `kind`, "gpu" or "tpu", which may be absent.

    They take the form for these, and have the compiler's options for them.
    """
    token = _TARGET.set(kind)
    try:
        yield
    finally:
        _TARGET.reset(token)


@contextmanager
def _traced_as(form: str) -> Iterator[None]:
    token = _FORM.set(form)
    try:
        yield
    finally:
        _FORM.reset(token)


def per_example(function: Callable) -> Callable:
    """Maps `function` over the examples of a batch: one after the other on CPU, all at once on accelerators."""
    if on_cpu():
        return lambda *batch: jax.lax.map(lambda example: function(*example), batch)
    return jax.vmap(function)


def choose(index: Int[Array, ""], branches: Sequence[Callable], *operands: Any) -> Array:
    """branches[index](*operands), an array of the same shape and type in every branch; `index` is clipped.

    On CPU only that branch runs. On accelerators all run and one result is selected, as vmap does with lax.switch.
    Inside shard_map, lax.switch itself fails if a branch returns a value that is the same on every device.
    """
    if on_cpu():
        return jax.lax.switch(index, branches, *operands)
    index = jnp.clip(index, 0, len(branches) - 1)
    return jax.lax.select_n(index, *(branch(*operands) for branch in branches))


def scan(body: Callable, carry: Any, parts: Any, length: int) -> tuple[Any, Any]:
    """lax.scan, unrolled on CPU, where XLA runs the convolutions of a loop on one thread, ten times slower."""
    if length > 1 and not on_cpu():
        return jax.lax.scan(body, carry, parts)
    results = []
    for index in range(length):
        carry, result = body(carry, jax.tree.map(lambda x: x[index], parts))  # noqa: B023
        results.append(result)
    return carry, jax.tree.map(lambda *each: jnp.stack(each), *results)
