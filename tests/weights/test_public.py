import hashlib
import http.server
import math
import re
import threading
from functools import partial
from typing import ClassVar

import pytest

from morphism import models
from morphism.errors import UserError
from morphism.weights import public
from morphism.weights.public import CHECKPOINTS, Public, fetch, find

CONTENT = bytes(range(256)) * 9000  # more than one chunk
DIGEST = hashlib.sha256(CONTENT).hexdigest()
FILE = f"tiny-{DIGEST[:8]}.pth"


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, in parts where asked for; the first answers end after `cut` bytes each."""

    cut: ClassVar[list[int]] = []
    asked: ClassVar[list[str]] = []

    def do_GET(self):
        self.asked.append(self.headers.get("Range", ""))
        path = self.translate_path(self.path)
        try:
            with open(path, "rb") as file:
                content = file.read()
        except FileNotFoundError:
            return self.send_error(404)
        start = int(re.match(r"bytes=(\d+)-|", self.headers.get("Range", ""))[1] or 0)
        if start >= len(content) > 0:
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.cut.pop(0) if self.cut else None])

    def log_message(self, *_):
        pass


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What the server serves: one file, which the table then names."""
    served = tmp_path / "served"
    served.mkdir()
    (served / FILE).write_bytes(CONTENT)
    monkeypatch.setitem(CHECKPOINTS, "resnet18/TINY", Public(FILE, 256, 1.0, 2.0))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Handler.cut, Handler.asked = [], []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MORPHISM_WEIGHTS_URL", f"http://127.0.0.1:{server.server_port}/")
    yield served
    server.shutdown()


def fetched(say=lambda line: None):
    return fetch("torchvision:resnet18/TINY", say)


def kept(path):
    return {file.name for file in path.iterdir()} - {f"{FILE}.lock"}


def test_a_checkpoint_is_fetched_once_and_kept(folder, tmp_path):
    lines = []
    path = fetched(lines.append)
    assert path == tmp_path / "cache" / "morphism" / "weights" / FILE and path.read_bytes() == CONTENT
    assert kept(path.parent) == {FILE}
    assert len(lines) == 1 and lines[0].endswith(f"/{FILE}")
    assert fetched(lines.append) == path
    assert len(lines) == 1 and Handler.asked == [""]


def test_a_file_url_serves_as_well(folder, monkeypatch):
    monkeypatch.setenv("MORPHISM_WEIGHTS_URL", f"file://{folder}")
    assert fetched().read_bytes() == CONTENT


def test_an_interrupted_fetch_goes_on_where_it_stood(folder):
    Handler.cut = [1_500_000, 200_000]
    for _ in range(2):
        with pytest.raises(UserError, match="interrupted .* the same command goes on from there"):
            fetched()
    assert fetched().read_bytes() == CONTENT
    assert Handler.asked == ["", "bytes=1500000-", "bytes=1700000-"]


def test_a_part_that_lacked_nothing_but_its_name_is_taken(folder, tmp_path):
    part = tmp_path / "cache" / "morphism" / "weights" / f"{FILE}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    assert fetched().read_bytes() == CONTENT


def test_a_server_without_parts_gives_the_whole_again(folder, tmp_path, monkeypatch):
    part = tmp_path / "cache" / "morphism" / "weights" / f"{FILE}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"something older")
    monkeypatch.setenv("MORPHISM_WEIGHTS_URL", f"file://{folder}")
    assert fetched().read_bytes() == CONTENT


def test_other_bytes_are_refused_and_removed(folder):
    (folder / FILE).write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(UserError, match=f"its SHA-256 begins [0-9a-f]{{8}}, not {DIGEST[:8]}; removed"):
        fetched()
    (folder / FILE).write_bytes(CONTENT)
    path = fetched()
    path.write_bytes(CONTENT[:-1])  # the disk's doing
    with pytest.raises(UserError, match="removed"):
        fetched()
    assert kept(path.parent) == set()
    assert fetched().read_bytes() == CONTENT


def test_what_the_server_refuses_is_one_line(folder, monkeypatch):
    (folder / FILE).unlink()
    with pytest.raises(UserError, match=rf"/{FILE}: 404 Not Found; fetch it by hand into "):
        fetched()
    monkeypatch.setenv("MORPHISM_WEIGHTS_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="not reached .*; the same command tries again"):
        fetched()


def test_a_folder_that_cannot_be_written_is_one_line(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot be written"):
        fetched()


def test_unknown_weights_are_named_with_the_known():
    with pytest.raises(UserError, match="resnet50/IMAGENET1K_V3: .* there are .*; did you mean resnet50/IMAGENET1K_V2"):
        find("torchvision:resnet50/IMAGENET1K_V3")
    with pytest.raises(UserError, match="inception/V1: torchvision has no such weights"):
        find("torchvision:inception/V1")


def test_every_checkpoint_is_of_an_architecture_here_and_all_have_one():
    imagenets = {name for name in models.models() if not name.startswith("cifar")}
    assert {name.partition("/")[0] for name in CHECKPOINTS} <= imagenets
    for family in ("alexnet", "vgg", "resnet", "wide_resnet", "resnext"):
        of_family = [name for name in imagenets if name.startswith(family)]
        assert of_family and all(f"{name}/IMAGENET1K_V1" in CHECKPOINTS for name in of_family)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoints_figures_are_possible(name):
    known = find(public.PREFIX + name)
    assert re.fullmatch(r"[a-z0-9_-]+-[0-9a-f]{8}\.pth", known.file)
    assert known.resize_size in (232, 256) and known.crop_size == 224
    assert (known.top1 is None) == bool(known.untrained)
    assert known.top1 is None or 50 < known.top1 < known.top5 < 100
    assert all(math.isfinite(value) for value in (*known.mean, *known.std))


def test_top1_is_what_the_architectures_quote():

    text = " ".join(module.__doc__ for module in (models.alexnet, models.vgg, models.resnet))
    text += " ".join(cls.__doc__ or "" for cls in (models.alexnet.AlexNet, models.vgg.VGG))
    for name, known in CHECKPOINTS.items():
        if known.top1 is not None:
            assert f"{known.top1:.3f}" in text or f"{known.top1:.2f}" in text, name


def test_names_of_old_detectors_become_todays_and_todays_stay():
    old = {
        "backbone.fpn.inner_blocks.2.bias": "backbone.fpn.inner_blocks.2.0.bias",
        "backbone.fpn.layer_blocks.0.weight": "backbone.fpn.layer_blocks.0.0.weight",
        "head.classification_head.conv.6.weight": "head.classification_head.conv.3.0.weight",
        "head.regression_head.conv.2.bias": "head.regression_head.conv.1.0.bias",
        "rpn.head.conv.weight": "rpn.head.conv.0.0.weight",
        "roi_heads.mask_head.mask_fcn1.weight": "roi_heads.mask_head.0.0.weight",
        "roi_heads.mask_head.mask_fcn4.bias": "roi_heads.mask_head.3.0.bias",
    }
    assert {name: public.current_name(name) for name in old} == old
    unchanged = ("backbone.body.layer1.0.conv1.weight", "head.regression_head.bbox_reg.bias", "rpn.head.bbox_pred.bias")
    for name in (*old.values(), *unchanged):
        assert public.current_name(name) == name


@pytest.mark.parametrize("name", public.SEGMENTERS)
def test_every_segmenter_is_an_architecture_here_and_quotes_its_miou(name):

    architecture, known = name.partition("/")[0], find(public.PREFIX + name)
    assert architecture in models.models() and known.file.startswith(f"{architecture}_coco-")
    assert re.fullmatch(r"[a-z0-9_]+-[0-9a-f]{8}\.pth", known.file)
    lines = (models.fcn.__doc__ + models.deeplab.__doc__).splitlines()
    line = next(line for line in lines if line.startswith(f"    {architecture} "))
    assert f"{known.miou}" in line and 50 < known.miou < known.pixel_accuracy < 100


@pytest.mark.parametrize("name", public.DETECTORS)
def test_every_detector_is_an_architecture_here(name):
    assert name.partition("/")[0] in models.models()
    assert re.fullmatch(r"[a-z0-9_]+-[0-9a-f]{8}\.pth", public.DETECTORS[name].file)


@pytest.mark.parametrize(("version", "box", "mask"), [("", 37.9, 34.6), ("_v2", 47.4, 41.8)])
def test_mask_r_cnns_quote_both_of_their_published_results(version, box, mask):
    known = find(f"{public.PREFIX}maskrcnn_resnet50_fpn{version}/COCO_V1")
    assert (known.ap, known.mask_ap) == (box, mask)
    line = next(line for line in models.mask_rcnn.__doc__.splitlines() if f"fpn{version} " in line)
    assert f"{box}" in line and f"{mask}" in line
