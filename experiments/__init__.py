"""One file per experiment of a paper: get_config(variant) -> ConfigDict."""

SHARED = ("base", "fields", "parts")  # files that are no experiments
