from functools import partial

import jax
import pytest


@pytest.fixture(autouse=True)
def compiled_fast(unoptimised):
    """All networks here run once or twice."""


@pytest.fixture
def optimised(unoptimised, monkeypatch):
    """With them nevertheless: convolutions in float64 are loops of XLA's own, which run six times as fast."""
    jax.config.update("jax_disable_most_optimizations", False)
    monkeypatch.setattr(jax, "jit", partial(jax.jit, compiler_options={"xla_backend_optimization_level": 1}))
