"""One file per experiment of a paper: get_config(variant) -> ConfigDict."""
