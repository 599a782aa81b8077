"""Writes a pure JAX function as an ONNX graph, operation by operation, with the package `onnx` alone.

    graph.py      values, nodes and constants of a graph that is being made
    simple.py     elementwise operations, and those that only move values
    products.py   convolutions, products, reductions, pooling
    indexing.py   gather, scatter, slices at computed positions, sorting
    control.py    calls, branches and loops
    convert.py    a function and its inputs -> a graph
    file.py       the file of an exported model

Each of the four in the middle has RULES: the name of a JAX primitive -> rule(graph, equation, inputs) -> outputs.

Integers of less than 32 bits are computed as int32, and floats of 16 bits as float32, for which every runtime has
kernels; inputs and outputs keep their types. Images are [B,H,W,C] in JAX, [B,C,H,W] for ONNX's convolutions: transposes
stand around each, and the runtime removes those between two of them.
"""
