"""`morphism prepare SOURCE --to DIR`: the same records and truths, to scale, in files that TFDS reads too."""

import errno
import io
import itertools
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from morphism.data import image, outlines, sources
from morphism.data.fingerprint import fingerprint
from morphism.data.pipeline import train_batches
from morphism.data.preparing import shards
from morphism.data.preparing.preparation import open_split, prepare, verify
from morphism.data.preparing.scaling import Storage, smaller, stored_image
from morphism.data.preparing.shards import Writer, shards_of
from morphism.data.recognise import recognise
from morphism.data.writing.partial import partial_folder
from morphism.errors import Unwritable, UserError
from morphism.experiments.base import get_base
from morphism.experiments.quickstart import get_config

WHOLE, SMALL = Storage(0, 90), Storage(24, 90)


def prepared(source, to, storage=WHOLE, split="train", **options):
    folder = prepare(source, str(to), storage, splits=[split], workers=1, say=lambda line: None, **options)
    return open_split(source, split, ""), open_split(f"prepared:{folder}", split, "")


def assert_same(before, after):
    assert {name: tuple(each) for name, each in before.targets.items()} == dict(after.targets)
    assert len(before) == len(after) and tuple(before.classes) == tuple(after.classes)
    for index in range(len(before)):
        own, found = before[index], after[index]
        assert own.keys() == found.keys()
        assert np.array_equal(*(image.decode(each["image"], "")[0] for each in (own, found)))
        for key in own.keys() - {"image", "name"}:
            one, other = ([*each.values()] for each in (_columns(own[key]), _columns(found[key])))
            assert all(map(np.array_equal, one, other)), key


def _columns(truth):
    return vars(truth) if hasattr(truth, "__dict__") else {"": truth}


@pytest.mark.parametrize("source", ["scenes:70x32", "scene_masks:20x32", "components:dress,bag:1:scene_masks:20x32"])
def test_without_a_size_images_and_truths_are_the_same_to_the_bit(tmp_path, source):
    before, after = prepared(source, tmp_path / "to")
    assert_same(before, after)
    assert np.array_equal(np.asarray(before.sizes), after.sizes)
    again = pickle.loads(pickle.dumps(after))
    assert_same(after, again)
    if "boxes" in before.targets:
        assert list(before.category_ids) == list(after.category_ids)
        counts = [[len(before[k]["annotations"])] * 3 for k in range(len(before))]
        assert after.box_counts.tolist() == counts


def test_batches_and_the_held_out_part_are_the_same(tmp_path):
    config = get_config()
    config.batch_size = 16
    config.data.val_fraction = 0.3
    found = {}
    folder = prepare("embedded", str(tmp_path / "to"), WHOLE, splits=["val"], workers=1, say=lambda line: None)
    config.data.update(source="embedded", train_split="val[:30]", val_fraction=0.0)
    for source in ("embedded", f"prepared:{folder}"):
        config.data.source = source
        train = sources.load(config.data, "val[:30]")
        found[source] = list(train_batches(train, config, start_step=2, stop_step=5))
    for one, other in zip(*found.values(), strict=True):
        assert one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def test_names_stay_so_that_the_same_records_are_held_out(tmp_path):
    for number in range(12):
        path = tmp_path / "photos" / "ab"[number % 2] / f"é{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 8), (number, 0, 0)).save(path)
    before, after = prepared(str(tmp_path / "photos"), tmp_path / "to")
    assert before.files.tolist() == after.files.tolist() and before.labels.tolist() == after.labels.tolist()
    held = []
    for source in (f"folder:{tmp_path / 'photos'}", f"prepared:{tmp_path / 'to'}"):
        data = get_base().data.copy_and_resolve_references()
        data.update(source=source, val_fraction=0.4)
        held.append(sources.load(data, "val").files.tolist())
    assert held[0] == held[1] and 0 < len(held[0]) < 12


def test_boxes_areas_and_masks_are_to_scale(tmp_path):
    before, after = prepared("scenes:20x48", tmp_path / "to", SMALL)
    for index in range(20):
        own, found, size = before[index], after[index], before.sizes[index].tolist()
        to = smaller(tuple(size), 24)
        assert image.size(found["image"], "") == tuple(after.sizes[index]) == to
        factors = np.array([to[1] / size[1], to[0] / size[0]] * 2)
        one, other = own["annotations"], found["annotations"]
        assert np.array_equal((one.boxes * factors).astype(np.float32), other.boxes)
        assert np.array_equal(one.area * (factors[0] * factors[1]), other.area)
        assert np.array_equal(one.classes, other.classes)
        for k in range(len(one)):
            mask = outlines.mask(own["masks"][k], size)
            rows, columns = ((np.arange(n) * m // n) for n, m in zip(to, size, strict=True))
            expected = mask[np.ix_(rows, columns)]
            got = outlines.mask(found["masks"][k], to)
            assert got.sum() == 1 if not expected.any() else np.array_equal(expected, got)
        pixels = image.decode(own["image"], "")[0]
        near = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(to[::-1], Image.Resampling.BILINEAR))
        assert np.abs(image.decode(found["image"], "")[0] - near.astype(float)).mean() < 8  # what JPEG loses


@pytest.mark.parametrize(
    ("size", "to"), [((30, 40), (24, 32)), ((41, 30), (32, 24)), ((24, 90), (24, 90)), ((20, 90), (20, 90))]
)
def test_only_larger_images_are_resized(size, to):
    assert smaller(size, 24) == to and smaller(size, 0) == size


def _encoded(mode, kind, **options):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 4), np.uint8)
    Image.fromarray(pixels[..., 0] if mode == "L" else pixels[..., : len(mode)], mode).save(buffer, kind, **options)
    return buffer.getvalue()


def test_what_needs_no_change_keeps_its_bytes_and_the_rest_what_it_can(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = io.BytesIO()
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40)).save(deep, "PNG")
    for encoded in (_encoded("RGB", "JPEG"), _encoded("L", "JPEG"), _encoded("RGB", "PNG"), deep.getvalue()):
        assert stored_image(encoded, "", WHOLE).image is encoded
    for encoded, start in (
        (_encoded("RGB", "BMP"), b"\x89PNG"),
        (_encoded("RGB", "JPEG", exif=exif), b"\xff\xd8"),
        (_encoded("CMYK", "JPEG"), b"\xff\xd8"),
    ):
        found = stored_image(encoded, "", WHOLE)
        assert found.image.startswith(start) and found.size == image.size(encoded, "")
        before, after = (image.decode(each, "")[0].astype(float) for each in (encoded, found.image))
        assert np.abs(before - after).mean() < (0.01 if start == b"\x89PNG" else 40)
    assert stored_image(deep.getvalue(), "", SMALL).image == deep.getvalue()  # of 16 bits: as it is
    lossless = stored_image(_encoded("RGB", "JPEG"), "", Storage(24, 0))
    assert lossless.image.startswith(b"\x89PNG") and lossless.size == (24, 32)
    with pytest.raises(UserError, match="nothing.jpg: empty file"):
        stored_image(b"", "nothing.jpg", WHOLE)


def test_tfds_reads_it_without_tensorflow(tmp_path):
    before, _ = prepared("components:dress,bag:1:scene_masks:20x32", tmp_path / "to")
    builder = tfds.builder_from_directory(tmp_path / "to")
    assert builder.info.splits["train"].num_examples == 20 and builder.info.file_format.value == "array_record"
    found = builder.as_data_source("train")
    for index in range(20):
        record, own, (height, width) = found[index], before[index], before.sizes[index]
        assert np.array_equal(record["image"], image.decode(own["image"], "")[0])
        assert np.array_equal(record["segmentation"][..., 0], own["segmentation"])
        boxes = np.reshape(record["objects"]["bbox"], (-1, 4))[:, [1, 0, 3, 2]] * [width, height, width, height]
        assert np.allclose(boxes, own["annotations"].boxes, atol=1e-4)
        assert list(record["objects"]["label"]) == own["annotations"].classes.tolist()
        assert list(record["objects"]["mask"]) == [own["masks"][k] for k in range(len(boxes))]
    labels = builder.info.features["objects"]["label"].names
    assert tuple(labels) == tuple(before.targets["boxes"]) and "tensorflow" not in sys.modules
    assert recognise(str(tmp_path / "to")).source == f"prepared:{tmp_path / 'to'}"


def test_a_killed_preparation_goes_on_and_repeats_no_shard(tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    real, calls = Writer._written, itertools.count()

    def dies(self, shard):
        if next(calls) == 2:
            (self.folder / ".half.part").write_bytes(b"half")
            raise Killed
        return real(self, shard)

    monkeypatch.setattr(Writer, "_written", dies)
    to, partial = tmp_path / "to", tmp_path / "to.partial"
    with pytest.raises(Killed):
        prepared("scenes:260x32", to)
    assert not to.exists() and not (partial / "dataset_info.json").exists()
    done = {path.name: path.stat().st_ino for path in partial.glob("*.array_record*")}
    assert len(done) == 2
    damaged = sorted(done)[1]
    content = bytearray((partial / damaged).read_bytes())
    content[70_000] ^= 1
    (partial / damaged).write_bytes(content)
    with pytest.raises(UserError, match="unfinished preparation with short_side=0, now 24; give the same"):
        prepared("scenes:260x32", to, SMALL)
    with monkeypatch.context() as patch:
        written = []
        patch.setattr(Writer, "_written", lambda self, shard: written.append(shard.number) or real(self, shard))
        before, after = prepared("scenes:260x32", to)
    assert written == [1, 2, 3]  # the damaged one too
    assert (to / sorted(done)[0]).stat().st_ino == done[sorted(done)[0]]
    assert_same(before, after)
    whole, _ = tmp_path / "whole" / "to", prepared("scenes:260x32", tmp_path / "whole" / "to")
    names = sorted(path.relative_to(to) for path in to.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert all((to / name).read_bytes() == (whole / name).read_bytes() for name in names)
    assert not partial.exists()


def test_what_is_damaged_later_is_named(tmp_path):
    prepared("scenes:20x32", tmp_path / "to")
    assert verify(tmp_path / "to") == []
    (path,) = (tmp_path / "to").glob("*.array_record*")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (tmp_path / "to" / "tables" / "train" / "sizes.npy").unlink()
    wrong = verify(tmp_path / "to")
    assert len(wrong) == 2 and f"{path}: changed" in wrong[0] and "sizes.npy: missing" in wrong[1]
    source = sources.load(sources.within(f"prepared:{tmp_path / 'to'}", ""), "train")
    with pytest.raises(UserError, match=f"{tmp_path}/to: .*cannot be read.*--verify"):
        source[19]
    with pytest.raises(UserError, match=r"sizes\.npy is missing"):
        _ = source.sizes


def test_a_shard_of_other_records_is_read_by_none(tmp_path):
    prepared("scenes:20x32", tmp_path / "to")
    names = np.load(tmp_path / "to" / "tables" / "train" / "names.npy")
    np.save(tmp_path / "to" / "tables" / "train" / "names.npy", np.roll(names, 1))  # as if the shard were another's
    source = sources.load(sources.within(f"prepared:{tmp_path / 'to'}", ""), "train")
    with pytest.raises(UserError, match=rf"{tmp_path}/to: .*array_record.* cannot be read.*--verify"):
        source[3]


def test_a_table_that_is_too_short_is_one_line(tmp_path):
    prepared("scenes:20x32", tmp_path / "to")
    for path in (tmp_path / "to" / "tables" / "train").glob("has_*.npy"):
        np.save(path, np.load(path)[:5])
    source = sources.load(sources.within(f"prepared:{tmp_path / 'to'}", ""), "train")
    assert source[4]
    with pytest.raises(UserError, match=f"{tmp_path}/to: a table of train has fewer rows .*--verify"):
        source[5]


@pytest.mark.parametrize("name", ["n" * 240, os.fsdecode(b"to\xff")])
def test_a_folder_after_which_no_file_can_be_named_is_refused_first(tmp_path, name):
    with pytest.raises(UserError, match=r"^--to .*: (too long a name for the files|no UTF-8)"):
        prepared("scenes:20x32", tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_classes_whose_names_are_not_utf8_are_refused_first(tmp_path):
    for name in ("a", os.fsdecode(b"c\xff")):
        (tmp_path / "images" / "train" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / "train" / name / "1.png")
    with pytest.raises(UserError, match=r"images: the name of its class 'c\\udcff' is not UTF-8; rename it$"):
        prepared(f"folder:{tmp_path / 'images'}", tmp_path / "to")
    assert not (tmp_path / "to.partial").exists()


def test_what_other_tools_read_of_it_is_verified_too(tmp_path):
    prepared("scenes:20x32", tmp_path / "to")
    files = {path.name: path for path in (tmp_path / "to").iterdir() if path.suffix in (".json", ".txt")}
    assert {"features.json", "dataset_info.json"} < files.keys() and any("labels" in name for name in files)
    for path in (path for name, path in files.items() if name != "morphism.json"):
        text = path.read_text()
        path.write_text(text + " ")
        assert verify(tmp_path / "to") == [f"{path}: changed since it was written"]
        path.unlink()
        assert verify(tmp_path / "to") == [f"{path}: missing"]
        path.write_text(text)
    assert verify(tmp_path / "to") == []


def test_a_manifest_that_lacks_something_is_one_line(tmp_path):
    prepared("scenes:20x32", tmp_path / "to")
    path = tmp_path / "to" / "morphism.json"
    path.write_text('{"format": 1}')
    with pytest.raises(UserError, match=f"^{path}: lacks by_id, .*; restore it, or prepare the data again$"):
        sources.load(sources.within(f"prepared:{tmp_path / 'to'}", ""), "train")
    assert len(verify(tmp_path / "to")) == 1


def test_what_is_there_is_neither_repeated_nor_overwritten(tmp_path):
    prepared("scenes:20x32", tmp_path / "to")
    said = []
    prepare("scenes:20x32", str(tmp_path / "to"), WHOLE, splits=["train"], workers=1, say=said.append)
    assert said == [f"{tmp_path / 'to'}: is prepared already"]
    for source, storage, words in (
        ("scenes:21x32", WHOLE, "source='scenes:20x32', now 'scenes:21x32', other data"),
        ("scenes:20x32", SMALL, "short_side=0, now 24"),
    ):
        with pytest.raises(UserError, match=f"is prepared already with {words}; name a new folder, or remove it"):
            prepared(source, tmp_path / "to", storage)
    with pytest.raises(UserError, match="prepare its sources one by one"):
        prepared("mix:1*scenes:20x32 + 1*scenes:30x32", tmp_path / "other")
    (tmp_path / "other.partial").mkdir()
    (tmp_path / "other.partial" / "plan.json").write_text("{")
    with pytest.raises(UserError, match=r"plan\.json: cannot be read .*; remove .*other\.partial$"):
        prepared("scenes:20x32", tmp_path / "other")


def test_a_slice_and_a_folder_that_cannot_be_made_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"--split train\[:5\]: only whole splits are prepared; give --split train,"):
        prepared("scenes:20x32", tmp_path / "to", split="train[:5]")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/to.partial: cannot be made \(Not a directory\)"):
        prepared("scenes:20x32", tmp_path / "file" / "to")


def test_a_record_that_cannot_be_read_is_named(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / name / "1.png")
    (tmp_path / "photos" / "dog" / "2.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"dog/2\.png"):
        prepared(str(tmp_path / "photos"), tmp_path / "to")
    with pytest.raises(UserError, match="photos/to: lies in .*/photos, and would become part of the data; name a fold"):
        prepared(str(tmp_path / "photos"), tmp_path / "photos" / "to")
    (tmp_path / "photos").rename(tmp_path / "in.partial")
    with pytest.raises(UserError, match="in: is first written as .*/in.partial, where the data are; name another"):
        prepared(str(tmp_path / "in.partial"), tmp_path / "in")
    with pytest.raises(UserError, match=r"in\.partial: holds something else; remove it, or name another folder"):
        prepared("scenes:20x32", tmp_path / "in")
    assert (tmp_path / "in.partial" / "cat" / "1.png").exists()


def test_a_link_stands_for_its_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new"):
        (tmp_path / "link").symlink_to(name)
        prepared("scenes:20x32", tmp_path / "link")
        assert verify(tmp_path / name) == []
        (tmp_path / "link").unlink()
    assert not (tmp_path / "to").exists()


def test_a_fingerprint_reads_no_record_and_changes_with_the_data(tmp_path, monkeypatch):
    _, one = prepared("scenes:20x32", tmp_path / "one")
    _, other = prepared("scenes:20x33", tmp_path / "other")
    monkeypatch.setattr(type(one), "_read", None)
    found = [fingerprint(each)["sha256"] for each in (one, other)]
    data = sources.within(f"prepared:{tmp_path / 'one'}", "")
    part = [fingerprint(sources.load(data, f"train[{a}:{a + 10}]"))["sha256"] for a in (0, 5)]
    assert len({*found, *part}) == 4


def test_shards_hold_every_record_once():
    for records in (1, 63, 64, 1000, 4096 * 16, 100_000):
        found = shards_of("train", records)
        assert [found[0].start, *(each.stop for each in found)] == [*(each.start for each in found), records]
        assert all(0 < each.stop - each.start <= shards.LARGEST and each.count == len(found) for each in found)


def test_processes_write_what_one_process_writes(tmp_path):
    for workers in (1, 2):
        prepare("scenes:130x32", str(tmp_path / str(workers) / "to"), WHOLE, workers=workers, say=lambda line: None)
    _assert_equal_folders(tmp_path / "1" / "to", tmp_path / "2" / "to")


def test_beam_writes_what_one_process_writes(tmp_path):
    pytest.importorskip("apache_beam")
    for engine in ("local", "beam"):
        prepare("scenes:130x32", str(tmp_path / engine / "to"), WHOLE, engine=engine, workers=1, say=lambda line: None)
    _assert_equal_folders(tmp_path / "local" / "to", tmp_path / "beam" / "to")


def _assert_equal_folders(one: Path, other: Path):
    files = [path.relative_to(one) for path in one.rglob("*") if path.is_file()]
    assert len(files) > 6 and len(files) == sum(path.is_file() for path in other.rglob("*"))
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in files)
    assert not [name for name in os.listdir(one) if name.startswith(".")]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "x"), OSError(errno.EDQUOT, "x"), RuntimeError("write() failed: No space left on device")],
)
def test_a_full_disk_is_one_line_and_what_is_written_stays(tmp_path, error):
    with (
        pytest.raises(Unwritable, match=rf"^{tmp_path}/to.partial: No space .*; make room and start the same command"),
        partial_folder(tmp_path / "to") as partial,
    ):
        (partial / "written").touch()
        raise error
    with partial_folder(tmp_path / "to") as partial:
        assert (partial / "written").exists()
    with pytest.raises(RuntimeError, match="other"), partial_folder(tmp_path / "other"):
        raise RuntimeError("other")
