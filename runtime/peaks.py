"""Peaks: the speed of devices as their makers publish it, and the memory that a process has used.

Sources: NVIDIA's data sheets of H100, H200, A100, L40S, L4, T4 and V100; the Ada architecture white paper, appendix A
(RTX 4090); cloud.google.com/tpu/docs (per chip; a chip of TPU v2 or v3 is two devices of JAX). NVIDIA's sheets since
the A100 print the speed with structured sparsity, which is twice the dense one here.
"""

import re
import resource
import sys
from typing import NamedTuple

import jax


class Peak(NamedTuple):
    """Dense matrix products of one device, in TFLOP/s; None where the device has no units for that type.

    bfloat16: accumulated in float32. tensor: what float32 becomes by default, TF32 or on TPU bfloat16. float32: exact.
    """

    bfloat16: float | None
    tensor: float | None
    float32: float | None


_PEAKS = (  # a pattern of jax.Device.device_kind; the first that matches counts
    (r"H200 NVL", Peak(835.5, 417.5, 60.0)),
    (r"H200", Peak(989.5, 494.5, 67.0)),
    (r"H100 NVL", Peak(835.5, 417.5, 60.0)),
    (r"H100 PCIe", Peak(756.5, 378.0, 51.0)),
    (r"H100", Peak(989.5, 494.5, 67.0)),
    (r"A100", Peak(312.0, 156.0, 19.5)),
    (r"V100-PCIE", Peak(None, None, 14.0)),
    (r"V100", Peak(None, None, 15.7)),
    (r"\bL40S", Peak(362.0, 183.0, 91.6)),
    (r"\bL4\b", Peak(121.0, 60.0, 30.3)),
    (r"\bT4\b", Peak(None, None, 8.1)),
    (r"RTX 4090(?! Laptop| D)", Peak(165.2, 82.6, 82.6)),
    (r"TPU v2", Peak(22.5, 22.5, None)),
    (r"TPU v3", Peak(61.5, 61.5, None)),
    (r"TPU v4 lite", Peak(138.0, 138.0, None)),
    (r"TPU v4", Peak(275.0, 275.0, None)),
    (r"TPU v5 lite|TPU v5e", Peak(197.0, 197.0, None)),
    (r"TPU v5", Peak(459.0, 459.0, None)),
    (r"TPU v6 lite|TPU v6e", Peak(918.0, 918.0, None)),
)
_EXACT = ("highest", "float32", "F32_F32_F32")  # values of jax_default_matmul_precision


def flops(device_kind: str, dtype: str, precision: str = "default") -> float | None:
    """FLOP/s of one device, if its peak is known.

    dtype, precision: config.model.dtype and config.precision. For float32 the peak is that of TF32 where there is one,
    which is what JAX computes in, unless config.precision or else jax_default_matmul_precision says otherwise.
    """
    if precision == "default":
        precision = jax.config.jax_default_matmul_precision
    peak = next((peak for pattern, peak in _PEAKS if re.search(pattern, device_kind)), None)
    if peak is None:
        return None
    if dtype == "bfloat16":
        speed = peak.bfloat16
    elif precision in _EXACT:
        speed = peak.float32
    else:
        speed = peak.tensor or peak.float32
    return speed and speed * 1e12


def memory() -> dict[str, float]:
    """The most memory used so far, in bytes: "device", of one of this process's devices, and "host".

    "device" is absent on CPU, where arrays are in the host's memory.
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    used = [each["peak_bytes_in_use"] for each in stats if "peak_bytes_in_use" in each]
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, see getrusage(2)
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return ({"device": float(max(used))} if used else {}) | {"host": float(host)}
