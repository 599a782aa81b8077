"""Pure JAX functions without parameters."""
