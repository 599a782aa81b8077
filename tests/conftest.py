"""Tests run on four CPU devices in one process, without network, TensorFlow or any data but the embedded."""

import gc
import os
import tempfile
from importlib.metadata import version

# What one test or command has compiled the others need not: they share a cache, which goes when the run has ended.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    COMPILED = tempfile.TemporaryDirectory(prefix="morphism-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name  # xdist's workers have it from the process that starts them
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
# Most programs of tests run once: without optimisations they cost two thirds. Long computations ask for `optimised`.
XLA_OPTIONS = [
    "backend_optimization_level=0",
    "llvm_disable_expensive_passes=true",
    "cpu_parallel_codegen_split_count=1",
]
if version("jaxlib").startswith("0.10."):
    XLA_OPTIONS.append("cpu_use_fusion_emitters=false")  # later versions do not know it, and would abort
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *(f"--xla_{each}" for each in XLA_OPTIONS)])
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "4"

# Tracing makes and keeps many objects; searching them for garbage was a fifth of its time.
gc.set_threshold(200_000, 20, 100)

from jaxtyping import install_import_hook

# Annotations, shapes included, are checked whenever a function of the package is called.
install_import_hook("morphism", "checked.check")

import pytest
from absl import logging
from ml_collections import ConfigDict

from morphism.experiments import base, quickstart
from morphism.runtime.mesh import make_mesh

logging.set_verbosity(logging.ERROR)

# Trainings of this process draw nothing unless a test sets config.plots.
for fields in (base.COMMON, *base.FIELDS.values()):
    fields["plots"] = fields["plots"]._replace(default=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest goes first, so that no worker waits for another at the end."""
    items.sort(key=lambda item: item.path.name != "test_resilience.py")


@pytest.fixture
def config() -> ConfigDict:
    """A run of eight steps that takes seconds: the quickstart on 8x8 pixels, evaluated on few images."""
    config = quickstart.get_config()
    config.batch_size = 16
    config.duration = "8"
    config.log_every = "2"
    config.eval_every = "0"
    config.checkpoint_every = "4"
    config.data.image_size = 8
    config.data.resize_size = 8
    config.data.train_crop = "random_resized"
    config.data.val_split = "val[:72]"
    config.schedule.warmup = "2"
    return config


@pytest.fixture
def blockless(config):
    """Reduces the network of `config` to a convolution, its norm and the classifier, for tests of everything else.

    A test to which blocks matter sets the depth to 8.
    """
    config.model.options = ConfigDict({"depth": 2})


@pytest.fixture
def mesh_of():
    """mesh_of(n): a mesh of the first n devices; mesh_of(n, fsdp): of which `fsdp` share a copy of the state."""
    return make_mesh
