"""Fingerprints of splits: whether a run still has the data that it started with.

A fingerprint covers everything that is known of the records without reading an image: each target of the source says
what that is (`fingerprint` in data/targets). Names and classes are in every fingerprint.
"""

import hashlib
import json
from typing import Any

from morphism.data import targets
from morphism.data.derived import Subset
from morphism.data.records import Source, names

Fingerprint = dict[str, Any]


def fingerprint(source: Source) -> Fingerprint:
    """{"records": their number, "sha256": digest of names, classes, and what each target adds: labels, boxes, sizes}.

    Of a source with an `identity`, that stands for its names and truths.

    TFDS's labels and masks, which would have to be read record by record, are represented by the dataset's version;
    masks in files by the sizes of the files and the legend. A part of a split also has "whole", the fingerprint of the
    split that it is cut from: an image that is added to the other part changes that.
    """
    digest = hashlib.sha256(json.dumps(list(source.classes), allow_nan=False).encode())
    if hasattr(source, "identity"):
        digest.update(source.identity.encode())
    else:
        digest.update(b"\0".join(names(source)))
        if hasattr(source, "version") and not hasattr(source, "store"):
            digest.update(source.version.encode())
        for target in source.targets:
            digest.update(targets.get(target).fingerprint(source) or b"")
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
