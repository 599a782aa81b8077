"""One file a paper experiment: get_config(variant) -> ConfigDict, and nothing else."""
