"""The configuration of a run's workdir, in the form of an experiment: what --workdir without --config goes on with."""

from ml_collections import ConfigDict

from morphism.runtime.manifest import read_config
from morphism.runtime.paths import folder


def get_config(workdir: str) -> ConfigDict:
    return read_config(folder(workdir))
