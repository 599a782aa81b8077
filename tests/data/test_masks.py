import pickle
import re
import struct
import zlib

import numpy as np
import pytest
from detection import write_image
from masks import PATTERN, write_mask, write_masks
from ml_collections import ConfigDict
from PIL import Image

from morphism.data import sources
from morphism.data import survey as check
from morphism.data.pipeline import train_batches
from morphism.data.sources import masks
from morphism.data.survey_text import describe
from morphism.errors import UserError
from morphism.experiments import isbi_unet
from morphism.tasks.drawing import samples


@pytest.fixture
def root(tmp_path):
    return write_masks(tmp_path)


def odd(source):
    """What is odd about its masks, without the folder that they are in."""
    assert re.match(r"odd masks in \S+: ", source.oddities)
    return re.sub(r" in \S+: ", ": ", source.oddities, count=1)


def load(root, split="train"):
    data = ConfigDict({"source": f"masks:{root}", "data_dir": "", "val_fraction": 0.0, "split_seed": 0})
    return sources.load(data, split)


@pytest.mark.parametrize(("layout", "known"), [("annot", "CamVid"), ("voc", "VOC")])
def test_values_that_the_layouts_own_classes_lack_name_the_file_to_write(tmp_path, layout, known):
    root = write_masks(tmp_path, layout)
    path = next(root.rglob("a*.png"))
    write_mask(path, np.full_like(PATTERN, 128))
    with pytest.raises(
        UserError, match=f"classes of {known}, for want of your own in {root}/classes.txt; .*'ignore 128' th"
    ):
        load(root)[0]


@pytest.mark.parametrize(
    ("layout", "classes"), [("images", 3), ("annot", 11), ("voc", 21)], ids=["images", "annot", "voc"]
)
def test_images_and_masks_are_paired_by_name_in_every_layout(tmp_path, layout, classes):
    root = write_masks(tmp_path, layout)
    assert masks.splits(str(root), "") == ("train", "val")
    train, val = load(root), load(root, "val")
    assert len(train) == 2 and len(val) == 1 and len(train.classes) == classes == len(masks.classes(str(root), ""))
    assert train.sizes.tolist() == [[3, 5]] * 2 and train.image_ids.tolist() == ["a", "b"]
    for index in range(2):
        record = train[index]
        np.testing.assert_array_equal(record["segmentation"], np.roll(PATTERN, index, axis=0))
        assert record["segmentation"].dtype == np.uint8 and record["name"].endswith(f"{'ab'[index]}.jpg")
    assert odd(train) == "odd masks: 6.7% of the pixels ignored"
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(train))[1]["segmentation"], train[1]["segmentation"])


@pytest.mark.parametrize("layout", ["images", "annot", "voc"])
def test_a_later_test_set_stands_alone(tmp_path, layout):
    root = write_masks(tmp_path, layout, {"test": "c"})
    assert masks.splits(str(root), "") == ("test",) and load(root, "test").image_ids.tolist() == ["c"]


def test_camvids_masks_have_its_eleven_classes_and_void(tmp_path):
    root = write_masks(tmp_path, "annot")
    write_mask(root / "trainannot" / "a.png", np.arange(15, dtype=np.uint8).reshape(3, 5) % 12)
    source = load(root)
    assert source.classes[0] == "sky" and source.classes[10] == "bicyclist"
    assert source[0]["segmentation"].ravel().tolist() == [*range(11), 255, 0, 1, 2]


def test_one_folder_of_each_is_train_to_cut_val_from_and_names_may_end_in_mask(tmp_path):
    for name in "abcd":
        write_image(tmp_path / "images" / f"{name}.jpg", 3, 5)
        write_mask(tmp_path / "masks" / f"{name}_mask.png", PATTERN)
    (tmp_path / "classes.txt").write_text("ground\nroad\nsky")
    data = ConfigDict({"source": f"masks:{tmp_path}", "data_dir": "", "val_fraction": 0.25, "split_seed": 0})
    assert (len(sources.load(data, "train")), len(sources.load(data, "val"))) == (3, 1)
    assert sources.load(data, "val").sizes.tolist() == [[3, 5]]


@pytest.mark.parametrize(
    ("legend", "values"),
    [
        ("ground 7\nroad 9\nsky 300\nignore 0\nignore 1\n", np.array([[7, 9, 300, 0, 1]], np.uint16)),
        ("# of colours\nground 0 0 0\nroad 128 64 128\nsky 70 130 180\nignore 1 2 3\nignore 9 9 9", None),
    ],
    ids=["numbers, 16 bits", "colours"],
)
def test_the_legend_says_what_numbers_and_colours_mean(root, legend, values):
    colours = np.array([[[0, 0, 0], [128, 64, 128], [70, 130, 180], [1, 2, 3], [9, 9, 9]]], np.uint8)
    for name in "ab":
        write_image(root / "images" / "train" / f"{name}.jpg", 1, 5)
        write_mask(root / "masks" / "train" / f"{name}.png", colours if values is None else values)
    (root / "classes.txt").write_text(legend)
    source = load(root)
    assert source.classes == ("ground", "road", "sky")
    assert source[0]["segmentation"].tolist() == [[0, 1, 2, 255, 255]]
    assert ("2 of 16 bits" in source.oddities) == (values is not None)


def test_a_palette_is_read_by_its_colours_where_the_legend_gives_colours(root):
    with Image.open(root / "masks" / "train" / "a.png") as mask:
        colours = np.asarray(mask.convert("RGB"))
    names = {0: "ground", 1: "road", 2: "sky", 255: "ignore"}
    lines = {value: colours[PATTERN == value][0] for value in names}
    (root / "classes.txt").write_text("\n".join(f"{names[k]} {' '.join(map(str, v))}" for k, v in lines.items()))
    np.testing.assert_array_equal(load(root)[0]["segmentation"], PATTERN)


def binary(root, values):
    for name, mask in zip("ab", values, strict=True):
        write_mask(root / "masks" / "train" / f"{name}.png", np.array(mask, np.uint8).reshape(3, 5))
    (root / "classes.txt").write_text("ground\nthing")
    return load(root)


def test_black_and_white_masks_are_two_classes_and_that_is_reported(root):
    source = binary(root, ([0, 255, 0] * 5, [0] * 15))
    assert source[0]["segmentation"].ravel().tolist() == [0, 1, 0] * 5
    assert odd(source) == "odd masks: all 2 black and white (255 read as thing)"


WHITE = [0, 255, 255] * 5


@pytest.mark.parametrize(
    ("legend", "first", "thing", "reported"),
    [
        ("plain", np.array([0, 1, 1] * 5, np.uint8), 20, "1 black and white (255 read as thing)"),
        ("plain", np.array([False, True, True] * 5), 20, "1 black and white (255 read as thing)"),
        ("plain", np.array([0, 1, *[255] * 13], np.uint8), 34, None),
        ("ignore 255", np.array([0, 1, 1] * 5, np.uint8), 10, "33.3% of the pixels ignored"),
    ],
    ids=["one 0/1", "one of 1 bit", "a stray 1", "the legend says what 255 is"],
)
def test_one_mask_stored_otherwise_does_not_change_what_255_is_in_the_others(tmp_path, legend, first, thing, reported):
    masks_of = [first, np.array(WHITE, np.uint8), *([np.array(WHITE, np.uint8)] if reported is None else [])]
    for name, values in zip("abc", masks_of, strict=False):
        write_image(tmp_path / "images" / f"{name}.jpg", 3, 5)
        write_mask(tmp_path / "masks" / f"{name}.png", values.reshape(3, 5))
    (tmp_path / "classes.txt").write_text("ground\nthing\n" + ("" if legend == "plain" else legend))
    source = load(tmp_path)
    counts = sum(np.bincount(source[index]["segmentation"].ravel(), minlength=256) for index in range(len(source)))
    reported = reported or "3 black and white (255 read as thing); single ones in 1 of these (read as thing)"
    assert (counts[1], odd(source)) == (thing, f"odd masks: {reported}")


@pytest.mark.parametrize("rest", [[0, 1, 255] * 5, [0, 1, 1] * 5], ids=["with ones", "in fewer masks than ones"])
def test_255_is_ignored_where_the_masks_say_so_and_the_share_is_reported(root, rest):
    for name in "cd":
        write_image(root / "images" / "train" / f"{name}.jpg", 3, 5)
        write_mask(root / "masks" / "train" / f"{name}.png", np.array(rest, np.uint8).reshape(3, 5))
    source = binary(root, ([0, 255, 0] * 5, rest))
    assert source[0]["segmentation"].ravel().tolist() == [0, 255, 0] * 5
    share = (5 + 3 * rest.count(255)) / 60
    assert odd(source) == f"odd masks: {share:.1%} of the pixels ignored"


def test_a_split_of_which_no_pixel_counts_is_refused(root):
    with pytest.raises(
        UserError, match="masks/train: all pixels of all 2 masks are ignored by the legend of .*classes"
    ):
        (root / "classes.txt").write_text("a\nb\nc\n")
        for name in "ab":
            write_mask(root / "masks" / "train" / f"{name}.png", np.full((3, 5), 255, np.uint8))
        load(root)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(bits, rows):
    """A grey PNG of 1, 2 or 4 bits, which Pillow does not write. Source: the PNG specification, sections 7 and 11."""
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), bits, 0, 0, 0, 0)
    lines = b""
    for row in rows:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        lines += b"\0" + int(text, 2).to_bytes(len(text) // 8)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def test_grey_of_few_bits_counts_by_ones(root):
    path = root / "masks" / "train" / "a.png"
    values = np.arange(15) % 3
    rows = values.reshape(3, 5).tolist()
    path.unlink()
    for name, encoded in {
        "a.png": png_of(2, rows),
        "a.PNG": png_of(4, rows),
        "a.pgm": b"P5 # three levels\n5 3\n2\n" + values.astype(np.uint8).tobytes(),
        "a.pnm": b"P2\n5 3\n300\n" + " ".join(map(str, values)).encode(),
    }.items():
        path.with_name(name).write_bytes(encoded)
        assert load(root)[0]["segmentation"].tolist() == rows, name
        path.with_name(name).unlink()


def test_white_of_one_bit_is_255_where_the_legend_knows_that_alone(root):
    (root / "classes.txt").write_text("ground 0\nthing 255\n")
    for name in "ab":
        (root / "masks" / "train" / f"{name}.png").write_bytes(png_of(1, [[0, 1, 0, 1, 1]] * 3))
    assert load(root)[0]["segmentation"][0].tolist() == [0, 1, 0, 1, 1]


def alpha_only(path):
    write_mask(path, np.dstack([np.zeros((3, 5, 3), np.uint8), PATTERN]))


def pages(path):
    path.unlink()
    first = Image.fromarray(PATTERN)
    first.save(path.with_suffix(".tif"), save_all=True, append_images=[first])


def floats(path):
    path.unlink()
    write_mask(path.with_suffix(".tif"), PATTERN.astype(np.float32))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (alpha_only, "a.png: only its alpha differs between pixels; save the classes as grey or colours"),
        (pages, "a.tif: holds 2 pages, a mask holds one; save each"),
        (floats, "a.tif: holds floating-point numbers, a mask whole ones; save it with 8 or 16 bits"),
        (lambda path: Image.fromarray(PATTERN).save(path, "JPEG"), "a.png: masks must be stored without loss"),
    ],
)
def test_what_cannot_be_a_mask_is_refused(root, spoil, message):
    spoil(root / "masks" / "train" / "a.png")
    with pytest.raises(UserError, match=message):
        load(root)[0]


@pytest.mark.parametrize(
    ("images", "names", "pairs"),
    [
        (("a", "a_L"), ("a_L", "a_L_L"), {"a": "a_L", "a_L": "a_L_L"}),
        (("a", "a_L"), ("a", "a_L"), {"a": "a", "a_L": "a_L"}),
        (("a", "a_L"), ("a_mask", "a_L"), {"a": "a_mask", "a_L": "a_L"}),
        (("day/a", "a"), ("day/a_mask", "a"), {"day/a": "day/a_mask", "a": "a"}),
        (("a", "a_L"), ("a_L",), "a.jpg: no mask .*masks/a.png; add it"),
        (("a", "b"), ("a_L", "a_mask", "b"), "a.jpg: has the masks a_mask.png and a_L.png in .*masks; remove one"),
        (("a", "b"), ("a", "a_mask", "b"), {"a": "a", "b": "b"}),
    ],
)
def test_an_image_takes_its_own_mask_only(tmp_path, images, names, pairs):
    for name in images:
        write_image(tmp_path / "images" / f"{name}.jpg", 3, 5)
    for name in names:
        write_mask(tmp_path / "masks" / f"{name}.png", PATTERN)
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    if isinstance(pairs, str):
        with pytest.raises(UserError, match=pairs):
            load(tmp_path)
    else:
        source = load(tmp_path)
        found = zip(source.image_ids.tolist(), source.mask_files.tolist(), strict=True)
        assert {image: mask.decode()[len("masks/") : -len(".png")] for image, mask in found} == pairs


@pytest.mark.parametrize(
    ("suffix", "options", "is_lossless"),
    [
        ("webp", {"lossless": True}, True),
        ("webp", {"lossless": True, "exif": b"Exif\0\0"}, True),  # in the extended format
        ("webp", {"quality": 100}, False),
        ("jp2", {}, True),
        ("j2k", {}, True),
        ("jp2", {"irreversible": True}, False),
        ("jpg", {"quality": 100}, False),
        ("avif", {"quality": 100}, False),
        ("bmp", {}, True),
        ("tiff", {"compression": "tiff_lzw"}, True),
    ],
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_masks_may_have_any_format_that_stores_without_loss(root, suffix, options, is_lossless, mode):
    (root / "masks" / "train" / "a.png").unlink()
    values = np.where(PATTERN == 255, 0, PATTERN)
    Image.fromarray(values).convert(mode).save(root / "masks" / "train" / f"a.{suffix}", **options)
    if is_lossless:
        np.testing.assert_array_equal(load(root)[0]["segmentation"], values)
    else:
        with pytest.raises(UserError, match=f"a.{suffix}: masks must be stored without loss, as PNG"):
            load(root)


def test_masks_without_an_image_are_passed_over_and_reported(root):
    write_mask(root / "masks" / "train" / "day2" / "c.png", PATTERN)
    source = load(root)
    assert source.image_ids.tolist() == ["a", "b"]
    assert f"; 1 without an image (passed over), first {root}/masks/train/day2/c.png" in source.oddities


def test_lists_may_hold_names_with_spaces_and_what_they_leave_out_is_not_reported(tmp_path):
    root = write_masks(tmp_path, "voc")
    for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        (root / folder / f"a.{suffix}").rename(root / folder / f"my image 1.{suffix}")
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("my image 1\n\n", encoding="utf-16")
    assert load(root).image_ids.tolist() == ["my image 1"]


def test_colours_that_are_grey_are_read_as_grey_and_that_is_reported(root):
    write_mask(root / "masks" / "train" / "a.png", np.stack([PATTERN] * 3, axis=-1))
    source = load(root)
    np.testing.assert_array_equal(source[0]["segmentation"], PATTERN)
    assert odd(source) == "odd masks: 1 stored in colours (read as grey); 6.7% of the pixels ignored"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda r: write_mask(r / "masks/train/a.png", PATTERN[:2]),
            "a.jpg is 5 x 3 but its mask .*a.png is 5 x 2: masks",
        ),
        (lambda r: (r / "masks/train/a.png").unlink(), "a.jpg: no mask .*masks/train/a.png; add it"),
        (lambda r: write_mask(r / "masks/train/b.jpg", PATTERN), "has the same name; rename"),
        (lambda r: (r / "masks/train/a.png").write_text("none"), "a.png: cannot be decoded"),
        (lambda r: (r / "classes.txt").unlink(), "classes.txt: no such file; write it"),
        (lambda r: (r / "classes.txt").write_text("a 1\na 2"), "classes.txt:2: 'a' names two classes"),
        (lambda r: (r / "classes.txt").write_text("a 1\nb 1"), "classes.txt:2: 1 stands for two classes"),
        (lambda r: (r / "classes.txt").write_text("a 1 2"), "classes.txt:1: 'a 1 2' is no name with a number or a col"),
        (lambda r: (r / "classes.txt").write_text("a 1 2 3\nb"), "classes.txt: b has no colour, others have"),
        (lambda r: (r / "classes.txt").write_text("a\nignore"), "classes.txt:2: ignore needs a number or a colour"),
        (lambda r: (r / "classes.txt").write_text("a ²\na ²"), "classes.txt:2: 'a ²' names two classes"),
        (lambda r: (r / "classes.txt").write_bytes(b"a\nb\xe9\n"), "classes.txt:2: not UTF-8; save the file as text"),
        (lambda r: (r / "classes.txt").write_text("# none"), "names 0 classes; write 1 to 255"),
    ],
)
def test_what_does_not_fit_is_named(root, spoil, message):
    spoil(root)
    with pytest.raises(UserError, match=message):
        load(root)


@pytest.mark.parametrize(
    ("values", "legend", "message"),
    [
        (
            PATTERN + (PATTERN == 2),
            None,
            "a.png: holds 3 at row 1, column 3, which is none of the 3 classes of .*'ignore 3'",
        ),
        (
            np.stack([PATTERN, PATTERN, 0 * PATTERN], -1),
            None,
            "a mask in colours, to which .*classes.txt gives no classes",
        ),
        (
            np.stack([PATTERN] * 3, -1),
            "a 0 0 0\nb 1 1 1",
            "holds 255 255 255 at row 0, column 4, .* 'ignore 255 255 255'",
        ),
        (PATTERN.astype(np.uint16) + 300, None, "holds 300 at row 0, column 0"),
        (PATTERN.astype(np.int32) - 1, None, "holds -1 to 254; a mask holds 0 to 65535"),
    ],
)
def test_a_pixel_without_a_class_is_named(root, values, legend, message):
    path = root / "masks" / "train" / "a.png"
    if values.dtype == np.int32:
        path.unlink()
        path = path.with_suffix(".tif")
    write_mask(path, values)
    if legend:
        (root / "classes.txt").write_text(legend)
    with pytest.raises(UserError, match=message):
        load(root)[0]


def test_a_folder_without_masks_tells_what_is_expected(tmp_path):
    with pytest.raises(UserError, match="no images with masks; expected train/ next to trainannot/"):
        masks.splits(str(tmp_path), "")


def test_the_check_of_a_source_counts_images_per_class_and_draws(root, tmp_path):
    source = load(root)
    report = check.survey(source).report
    assert report["classes"] == {"ground": 2, "road": 2, "sky": 2} and report["bad"] == []
    assert "images with" in describe("masks", report)
    samples.draw(source, tmp_path / "samples.png")
    assert (tmp_path / "samples.png").stat().st_size > 1000


def test_isbis_images_are_deformed_and_the_membranes_between_cells_weigh_more(tmp_path):
    """Of experiments/isbi_unet.py's layout, which is grey images next to black and white masks."""
    mask = np.full((40, 64), 255, np.uint8)
    mask[:, 20:23] = mask[18:21] = 0
    for number in range(5):
        write_mask(tmp_path / "images" / f"{number}.png", mask // 2 + 60)
        write_mask(tmp_path / "masks" / f"{number}.png", mask)
    (tmp_path / "classes.txt").write_text("membrane\ncell\n")
    config = isbi_unet.get_config()
    config.data.update(source=f"masks:{tmp_path}", crop=(32, 32))
    source = sources.load(config.data, "train")
    assert len(source) == 3 and odd(source) == "odd masks: all 5 black and white (255 read as cell)"
    batches = list(train_batches(source, config, start_step=0, stop_step=8))
    weight, found = (np.concatenate([batch[name] for batch in batches]) for name in ("weight", "segmentation"))
    assert weight.shape == found.shape == (8, 32, 32) and set(np.unique(found)) == {0, 1}
    # Three pixels wide, a membrane is 4 from both cells together; between pixels weights are interpolated.
    assert weight.max() == pytest.approx(1 + 10 * np.exp(-(4**2) / 50), abs=1 / 16)
    assert weight[found == 0].mean() > 6 and 1 <= weight[found == 1].mean() < 2
