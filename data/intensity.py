"""The intensity range of a dataset's high-bit images: which stored values become black and white.

    config.data.pixels      uint8, float32, or auto: float32 if one of LOOKED_AT train images has more than 8 bits
    config.data.intensity   (low, high) in stored units, the window of CT; (): found by config.data.intensity_rule
    config.data.intensity_rule
        bits          0 to 2^b - 1 with the fewest bits b, at least 8, that hold the values of train images; -2^(b-1) to
                      2^(b-1) - 1 if some are negative; floats 0 to 1, or as percentiles if some lie outside
        type          the range of the stored type: 0 to 65535 for uint16; floats 0 to 1
        percentiles   the 0.5 and 99.5 percentiles of train images (as nnU-Net does for CT)

`settle` measures the train split once and writes the result into these fields. A run keeps them in its workdir, so that
resuming, evaluation and prediction scale as training did. It measures MEASURED train images, or all if there are fewer,
drawn by config.seed: for percentiles VALUES random values of each, for bits all values.
"""

import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from morphism.data import high_bit, image
from morphism.data.high_bit import Range
from morphism.data.records import Source
from morphism.errors import UserError

PERCENTILES = (0.5, 99.5)
LOOKED_AT, MEASURED, VALUES = 64, 256, 1 << 14
DRAWING = 11  # tells this use of the seed from those of examples and epochs


class Values(NamedTuple):
    """The stored values of one high-bit image."""

    name: str
    kind: np.dtype
    low: float
    high: float
    sample: np.ndarray


def settle(config: ConfigDict, source: Source, say: Callable[[str], None] = lambda line: None) -> ConfigDict:
    """`config` with data.pixels and data.intensity found in the train split `source`.

    Images of 8 bits need no range, and floats and integers in one split share none: then intensity stays as it is, and
    each high-bit image is scaled by its own bits. `say` receives a line about a range that is found.
    """
    data = config.data
    intensity, pixels = tuple(data.intensity), data.pixels
    if pixels == "auto":
        pixels = "float32" if holds_high_bits(source, config.seed) else "uint8"
    elif intensity:
        return config
    of_8_bits = data.pixels == "auto" and pixels == "uint8"
    found = [] if intensity or of_8_bits else measure(source, config.seed)
    if found:
        intensity = find_range(found, data.intensity_rule) or ()
        say(describe(found, intensity, data.intensity_rule))
    return with_fields(config, {"pixels": pixels, "intensity": intensity})


def settle_pixels(config: ConfigDict, source: Source) -> ConfigDict:
    """`config` with data.pixels found in `source`, for images without a range found in training.

    Without config.data.intensity each image is then scaled by its own bits, whatever else `source` holds.
    """
    if config.data.pixels != "auto":
        return config
    if getattr(source, "apart", False):  # float32 holds images of 8 bits just as they are
        return with_fields(config, {"pixels": "float32"})
    return with_fields(config, {"pixels": "float32" if holds_high_bits(source, config.seed) else "uint8"})


def with_fields(config: ConfigDict, fields: dict[str, Any]) -> ConfigDict:
    """`config` with new values of config.data.pixels and config.data.intensity, as `settle` found them."""
    settled = config.copy_and_resolve_references()
    with settled.unlocked():
        for name, value in fields.items():
            settled.data[name] = tuple(value) if name == "intensity" else value
    return settled


def holds_high_bits(source: Source, seed: int) -> bool:
    """Whether one of LOOKED_AT records has more than 8 bits, judged by the headers of the images."""
    for index in _drawn(source, seed, LOOKED_AT):
        try:
            encoded = source[index]["image"]
        except UserError:  # reported when the record is read as an example
            continue
        if isinstance(encoded, np.ndarray):
            return encoded.dtype != np.uint8  # a source that generates its images has one type
        if is_high_bit(encoded):
            return True
    return False


def measure(source: Source, seed: int) -> list[Values]:
    """The values of high-bit images among MEASURED records."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda index: _measure(source, index, seed), _drawn(source, seed, MEASURED))
        return [each for each in found if each is not None]


def find_range(found: list[Values], rule: str) -> Range | None:
    """The range of measured images, by `rule`; None where some hold integers and some floats."""
    are_floats = {each.kind.kind == "f" for each in found}
    if len(are_floats) > 1:
        return None
    if rule == "type":
        ranges = [high_bit.type_range(each.kind) for each in found]
        return min(low for low, _ in ranges), max(high for _, high in ranges)
    low, high = min(each.low for each in found), max(each.high for each in found)
    by_bits = high_bit.bits_range(low, high, are_floats.pop()) if rule == "bits" else None
    return by_bits or _percentiles(found)


def describe(found: list[Values], intensity: Range | tuple[()], rule: str) -> str:
    """A line that reports a range and the values of the images."""
    if not intensity:
        return (
            f"data: {summarise(found)}; integers and floats share no range, so each image is scaled by its own bits "
            "(config.data.intensity=(low, high) sets a range for all)"
        )
    return (
        f"data: {summarise(found)}; black is {intensity[0]:g}, white {intensity[1]:g} "
        f"(config.data.intensity_rule={rule!r}; config.data.intensity=(low, high) sets others)"
    )


def summarise(found: list[Values]) -> str:
    """The stored values of measured images, as a clause: what a person needs to choose a range."""
    kinds = ", ".join(sorted({each.kind.name for each in found}))
    low, high = min(each.low for each in found), max(each.high for each in found)
    inner = _percentiles(found)
    return (
        f"images of more than 8 bits ({kinds}, {len(found):,} measured): their values are {low:g} to {high:g}, 99 % of "
        f"them {inner[0]:g} to {inner[1]:g}"
    )


def _percentiles(found: list[Values]) -> Range:
    low, high = np.percentile(np.concatenate([each.sample for each in found]), PERCENTILES).tolist()
    return low, high if high > low else low + 1


def _drawn(source: Source, seed: int, count: int) -> list[int]:
    rng = np.random.default_rng((seed, DRAWING))
    return np.sort(rng.choice(len(source), min(count, len(source)), replace=False)).tolist()


def is_high_bit(encoded: bytes) -> bool:
    if encoded.startswith(image.START_OF_JPEG):
        return False
    try:
        with Image.open(io.BytesIO(encoded)) as opened:
            return high_bit.is_high_bit(opened, encoded)
    except Exception:  # reported when the image is decoded
        return False


def _measure(source: Source, index: int, seed: int) -> Values | None:
    """None for an image of 8 bits, and for one that cannot be read, which is reported when it is its turn to train."""
    try:
        record = source[index]
        values = image.stored_values(record["image"], record["name"])
    except UserError:
        return None
    if values is None:
        return None
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values.ravel()
    if not finite.size:
        return None
    if finite.size > VALUES:
        sample = finite[np.random.default_rng((seed, DRAWING, index)).integers(0, finite.size, VALUES)]
    else:
        sample = finite
    return Values(record["name"], values.dtype, float(finite.min()), float(finite.max()), sample.astype(np.float64))
