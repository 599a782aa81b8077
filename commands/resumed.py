"""The configuration of a run as an experiment file: what --workdir without --config continues with."""

from ml_collections import ConfigDict

from morphism.runtime.manifest import read_config
from morphism.runtime.paths import folder


def get_config(workdir: str) -> ConfigDict:
    return read_config(folder(workdir))
