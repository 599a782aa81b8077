"""The report of one or several runs: one HTML file that needs nothing else, and no JAX to be made."""
