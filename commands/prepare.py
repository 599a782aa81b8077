"""Prepares a TensorFlow Datasets dataset as ArrayRecord, once, for `config.data.source = "tfds:<name>"`.

    morphism prepare tfds:fashion_mnist [--data_dir DIR] [--download_dir DIR] [--manual_dir DIR]

Calls the dataset's own download_and_prepare: downloads are verified by TFDS's checksums and kept.
`--manual_dir` holds archives that TFDS may not download (ImageNet).
`--offline DIR` uses original files that you already have, under their original names, instead of downloading them; the
same checksums verify them.
Some datasets need TensorFlow to be prepared, but never to be read: pip install '.[tensorflow]'.
"""

import hashlib
import struct
from pathlib import Path
from urllib.parse import urlparse

from morphism.commands import cli
from morphism.errors import UserError

COMMAND = cli.Command()
_DATA_DIR = COMMAND.string("data_dir", "", "Folder of prepared datasets; ~/tensorflow_datasets unless given.")
_DOWNLOAD_DIR = COMMAND.string("download_dir", "", "Folder of cached downloads; <data_dir>/downloads unless given.")
_MANUAL_DIR = COMMAND.string("manual_dir", "", "Folder of archives that TFDS may not download.")
_OFFLINE = COMMAND.string("offline", "", "A folder of original files to use instead of downloading.")


# Seconds since 1970 in the gzip headers of Fashion-MNIST's files as they were published.
PUBLISHED = {
    "train-images-idx3-ubyte.gz": 1504176606,
    "train-labels-idx1-ubyte.gz": 1504176606,
    "t10k-images-idx3-ubyte.gz": 1504176627,
    "t10k-labels-idx1-ubyte.gz": 1504176627,
}


def restore_gzip_header(name: str, content: bytes) -> bytes:
    """Turns files of Debian's dataset-fashion-mnist into Fashion-MNIST's files as they were published.

    Debian's hold the same compressed streams, with another time and no name in the gzip header (RFC 1952, section 2.3).
    With both restored, the files are equal to the originals. Other files are returned unchanged.
    """
    if name not in PUBLISHED or content[:4] != b"\x1f\x8b\x08\x00":
        return content
    flags_and_time = b"\x08" + struct.pack("<I", PUBLISHED[name])
    return content[:3] + flags_and_time + content[8:10] + Path(name).stem.encode() + b"\0" + content[10:]


def place_in_cache(builder, offline: Path, download_dir: Path) -> list[str]:
    """Puts the files of `offline` where TFDS's download cache expects them; returns their names.

    TFDS considers a file downloaded if it is in the cache under a name made of its URL and checksum, next to an .INFO
    file; it then verifies the checksum as for any download. Raises UserError for a missing file.
    """
    from tensorflow_datasets.core.download import resource

    placed = []
    download_dir.mkdir(parents=True, exist_ok=True)
    for url, info in builder.url_infos.items():
        name = Path(urlparse(url).path).name
        original = offline / name
        if not original.is_file():
            raise UserError(f"{original}: missing; {builder.name} is made of {url}")
        content = restore_gzip_header(name, original.read_bytes())
        found = hashlib.sha256(content).hexdigest()
        if found != info.checksum:
            raise UserError(f"{original}: its SHA-256 is {found}, TFDS expects {info.checksum}; fetch it again")
        target = download_dir / resource.get_dl_fname(url, info.checksum)
        target.write_bytes(content)
        resource.write_info_file(url=url, path=target, dataset_name=builder.name, original_fname=name, url_info=info)
        placed.append(name)
    return placed


def main(argv: list[str]) -> None:
    if len(argv) != 2 or not argv[1].startswith("tfds:"):
        raise UserError("give one dataset, such as tfds:fashion_mnist")
    import tensorflow_datasets as tfds

    from morphism.data.sources.tfds import builder

    found = builder(argv[1].removeprefix("tfds:"), _DATA_DIR.value)
    download_dir = Path(_DOWNLOAD_DIR.value or Path(found.data_dir_root) / "downloads")
    if _OFFLINE.value:
        names = place_in_cache(found, Path(_OFFLINE.value), download_dir)
        print(f"{len(names)} original files verified and placed in {download_dir}")
    try:
        found.download_and_prepare(
            file_format="array_record",
            download_dir=str(download_dir),
            download_config=tfds.download.DownloadConfig(manual_dir=_MANUAL_DIR.value or None),
        )
    except Exception as error:  # anything that a dataset's own code, the network or the disk raises
        if "No module named 'tensorflow'" in str(error):
            raise UserError(f"{argv[1]}: preparing it needs TensorFlow; pip install '.[tensorflow]'") from error
        raise UserError(f"{argv[1]}: {type(error).__name__}: {' '.join(str(error).split())[:500]}") from error
    for split, info in found.info.splits.items():
        print(f"{argv[1]} {split}: {info.num_examples:,} records in {found.data_dir}")
