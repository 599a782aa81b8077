import pytest


@pytest.fixture(autouse=True)
def compiled_fast(unoptimised):
    """All programs here are small, or run once or twice."""
