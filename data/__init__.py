"""The host's side of the input: sources, decoding, geometry, batching. NumPy only; nothing here touches JAX."""
