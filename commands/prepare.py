"""Prepares data for fast reading, once: any source as smaller JPEGs in a few large files, or a dataset of TFDS.

    morphism prepare SOURCE --to DIR [--short_side 256] [--quality 90] [--split train,val] [--engine beam]
    morphism prepare DIR --verify
    morphism prepare tfds:fashion_mnist [--data_dir DIR] [--download_dir DIR] [--manual_dir DIR]

With --to, SOURCE is a path or any config.data.source. Its images are resized, with boxes, masks and classes of pixels
to scale (data/preparing/scaling.py has the rules), and written as ArrayRecord that any tool of TFDS reads; --data DIR
reads it here. After an interruption the same command goes on. --verify compares all files with their checksums.

Without --to, it calls the TFDS dataset's own download_and_prepare: downloads are verified by TFDS's checksums and kept.
`--manual_dir` holds archives that TFDS may not download (ImageNet).
`--offline DIR` uses original files that you already have, under their original names, instead of downloading them; the
same checksums verify them.
Some datasets need TensorFlow to be prepared, but never to be read: pip install '.[tensorflow]'.
"""

import hashlib
import struct
import sys
from pathlib import Path
from urllib.parse import urlparse

from morphism.commands import cli
from morphism.errors import UserError

COMMAND = cli.Command()
_TO = COMMAND.string("to", "", "A new folder: SOURCE is written there, in any tool's reach.")
_SHORT_SIDE = COMMAND.integer("short_side", 0, "With --to: pixels of the shorter side of larger images; 0: as is.", 0)
_QUALITY = COMMAND.integer("quality", 90, "With --to: of resized JPEGs, 1 to 100; 0: PNG, without loss.", 0)
_SPLIT = COMMAND.string("split", "", "With --to: splits, such as train,val; all unless given.")
_WORKERS = COMMAND.integer("workers", 0, "With --to: processes; one per core unless given.", 0)
_ENGINE = COMMAND.string("engine", "local", "With --to: local, or beam, which needs the extra `beam`.")
_BEAM_OPTIONS = COMMAND.string("beam_options", "", "Options of Beam, such as '--runner=FlinkRunner ...'.")
_VERIFY = COMMAND.boolean("verify", False, "Compare the files of a prepared folder with their checksums.")
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
    if len(argv) != 2:
        raise UserError("give one source, such as photos --to DIR, or one dataset, such as tfds:fashion_mnist")
    if _VERIFY.value:
        _verify(argv[1])
    elif _TO.value:
        _prepare(argv[1])
    elif argv[1].startswith("tfds:"):
        _prepare_tfds(argv[1])
    else:
        raise UserError(f"{argv[1]}: add --to DIR, where to write it; or give one dataset, such as tfds:fashion_mnist")


def _verify(path: str) -> None:
    from morphism.data.preparing.preparation import MANIFEST, verify

    folder = Path(path.removeprefix("prepared:")).expanduser().absolute()
    if not (folder / MANIFEST).is_file():
        raise UserError(
            f"{folder}: has no {MANIFEST}, so that `morphism prepare SOURCE --to DIR` has not written it; name a "
            "folder that it has"
        )
    wrong = verify(folder)
    if wrong:
        raise UserError(f"{'; '.join(wrong)}; restore what is named, or prepare the data again")
    print(f"{path}: all files are as they were written")


def _prepare(source: str) -> None:
    from tqdm import tqdm

    from morphism.data.preparing.preparation import prepare
    from morphism.data.preparing.scaling import Storage

    if _QUALITY.value > 100:
        raise UserError(f"--quality is {_QUALITY.value}; it must be a whole number from 0 to 100")
    prepare(
        source,
        _TO.value,
        Storage(_SHORT_SIDE.value, _QUALITY.value),
        splits=[each.strip() for each in _SPLIT.value.split(",") if each.strip()],
        data_dir=_DATA_DIR.value,
        engine=_ENGINE.value,
        workers=_WORKERS.value,
        options=_BEAM_OPTIONS.value.split(),
        say=lambda line: print(line, flush=True),
        progress=lambda total: tqdm(total=total, unit=" images", disable=not sys.stderr.isatty()),
    )


def _prepare_tfds(source: str) -> None:
    import tensorflow_datasets as tfds

    from morphism.data.sources.tfds import builder

    found = builder(source.removeprefix("tfds:"), _DATA_DIR.value)
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
            raise UserError(f"{source}: preparing it needs TensorFlow; pip install '.[tensorflow]'") from error
        raise UserError(f"{source}: {type(error).__name__}: {' '.join(str(error).split())[:500]}") from error
    for split, info in found.info.splits.items():
        print(f"{source} {split}: {info.num_examples:,} records in {found.data_dir}")
