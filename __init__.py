"""Image models in JAX and Flax: numerically equal to the published ones, resumed to the bit, evaluated exactly.

    import morphism

    run = morphism.open("runs/quickstart")      # or morphism.open("torchvision:resnet50/...", config)
    run.predict("cat.jpg")

Everything else is imported from its own module: `from morphism import models`,
`from morphism.training.loop import train`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from morphism.evaluation.run import open, open_run, open_weights

__all__ = ["open", "open_run", "open_weights"]


def __getattr__(name: str) -> Any:
    """Imports JAX only when a run is opened, so that a command's --help need not wait for it."""
    if name == "__version__":
        from importlib import metadata

        try:
            return metadata.version("morphism")
        except metadata.PackageNotFoundError:
            return "not installed"
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from morphism.evaluation import run

    return getattr(run, name)
