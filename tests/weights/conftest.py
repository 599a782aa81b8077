import pytest


@pytest.fixture(autouse=True)
def compiled_fast(unoptimised):
    """All networks here are small, or run once or twice."""
