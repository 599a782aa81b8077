from functools import partial

import jax
import pytest


@pytest.fixture
def unoptimised():
    """Without most optimisations a network compiles in half the time; one that runs once gains by it."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def optimised(unoptimised, monkeypatch):
    """With them nevertheless: convolutions in float64 are loops of XLA's own, which run six times as fast."""
    jax.config.update("jax_disable_most_optimizations", False)
    monkeypatch.setattr(jax, "jit", partial(jax.jit, compiler_options={"xla_backend_optimization_level": 1}))
