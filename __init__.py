"""Image models in JAX and Flax: numerically the published ones, resumed to the bit, evaluated exactly."""
