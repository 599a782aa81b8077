import jax
import pytest


@pytest.fixture
def unoptimised():
    """Without most optimisations a network compiles in half the time; one that runs once gains by it."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def optimised(unoptimised):
    """With them nevertheless: convolutions in float64 are loops of XLA's own, which run six times as fast."""
    jax.config.update("jax_disable_most_optimizations", False)
