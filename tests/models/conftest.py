from functools import partial

import jax
import pytest


@pytest.fixture
def optimised(monkeypatch):
    """Compiles with optimisations: convolutions in float64 are loops of XLA's own, slower to run than to compile."""
    options = {"xla_backend_optimization_level": 1, "xla_llvm_disable_expensive_passes": False}
    monkeypatch.setattr(jax, "jit", partial(jax.jit, compiler_options=options))
