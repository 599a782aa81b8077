"""Whether a split is still the data that a run began with: a digest of everything that is known of its records without
reading an image.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import numpy as np

from morphism.data.derived import Subset
from morphism.data.records import Source, names

Fingerprint = dict[str, Any]


def fingerprint(source: Source) -> Fingerprint:
    """{"records": how many, "sha256": of their names, the classes, and each record's label, boxes or sizes}.

    What would have to be read record by record, TFDS's labels and masks, is there by the dataset's version, masks in
    files by how large these are and by their legend. Of a part also "whole", the fingerprint of what it is a part of:
    an image that was added to the other part changes that.
    """
    digest = hashlib.sha256(json.dumps(list(source.classes), allow_nan=False).encode())
    digest.update(b"\0".join(names(source)))
    for column in _columns(source):
        digest.update(np.ascontiguousarray(column).tobytes())
    found = {"records": len(source), "sha256": digest.hexdigest()}
    return found | ({"whole": fingerprint(source.source)} if isinstance(source, Subset) else {})


def changed(before: Fingerprint, now: Fingerprint) -> str:
    """How the data of `now` differs from that of `before`, as a part of a sentence; "" where it does not."""
    if before == now:
        return ""
    if before["records"] != now["records"]:
        return f"it had {before['records']:,} records and has {now['records']:,}"
    if before["sha256"] != now["sha256"]:
        return "its records have other names, classes or annotations"
    return f"in what it is cut from, {changed(before.get('whole', before), now.get('whole', now))}"


def own_records(found: Fingerprint) -> Fingerprint:
    """`found` of the split's records alone, without the whole that they are a part of."""
    return {key: value for key, value in found.items() if key != "whole"}


def _columns(source: Source) -> Iterable[np.ndarray]:
    if hasattr(source, "store"):
        flat = source.store.flat
        return [source.sizes, source.box_counts, *(getattr(flat, field.name) for field in fields(flat))]
    if hasattr(source, "version"):
        return [np.frombuffer(source.version.encode(), np.uint8)]
    if "label" in source.targets:
        return [source.labels]
    if hasattr(source, "mask_stamps"):
        legend = source.legend
        colours = np.array([(*colour, index) for colour, index in legend.colours.items()], np.int64)
        return [source.sizes, source.mask_stamps, legend.table, colours]
    return [source.sizes]
