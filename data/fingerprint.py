"""Fingerprints of splits: whether a run still has the data that it started with.

A fingerprint covers everything that is known of the records without reading an image.
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
    """{"records": their number, "sha256": digest of names, classes, and each record's label, boxes or sizes}.

    TFDS's labels and masks, which would have to be read record by record, are represented by the dataset's version;
    masks in files by the sizes of the files and the legend. A part of a split also has "whole", the fingerprint of the
    split that it is cut from: an image that is added to the other part changes that.
    """
    digest = hashlib.sha256(json.dumps(list(source.classes), allow_nan=False).encode())
    digest.update(b"\0".join(names(source)))
    for column in _columns(source):
        digest.update(np.ascontiguousarray(column).tobytes())
    found = {"records": len(source), "sha256": digest.hexdigest()}
    return found | ({"whole": fingerprint(source.source)} if isinstance(source, Subset) else {})


def changed(before: Fingerprint, now: Fingerprint) -> str:
    """How the data of `now` differs from that of `before`, as a clause for a message; "" where it does not."""
    if before == now:
        return ""
    if before["records"] != now["records"]:
        return f"it had {before['records']:,} records and has {now['records']:,}"
    if before["sha256"] != now["sha256"]:
        return "its records have other names, classes or annotations"
    return f"in what it is cut from, {changed(before.get('whole', before), now.get('whole', now))}"


def own_records(found: Fingerprint) -> Fingerprint:
    """`found` without the split that the records are cut from."""
    return {key: value for key, value in found.items() if key != "whole"}


def _columns(source: Source) -> Iterable[np.ndarray]:
    if hasattr(source, "store"):
        flat = source.store.flat
        return [source.sizes, source.box_counts, *(getattr(flat, field.name) for field in fields(flat))]
    if hasattr(source, "version"):
        return [np.frombuffer(source.version.encode(), np.uint8)]
    if "label" in source.targets:
        return [source.labels]
    columns = [source.sizes]
    if hasattr(source, "mask_stamps"):
        columns.append(source.mask_stamps)
    if hasattr(source, "legend"):
        colours = np.array([(*colour, index) for colour, index in source.legend.colours.items()], np.int64)
        columns += [source.legend.table, colours]
    return columns
