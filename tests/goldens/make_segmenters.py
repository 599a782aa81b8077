"""Writes segmenters.npz: what torch's segmenters, layers and losses compute with weights and outputs drawn by name.

    python tests/goldens/make_segmenters.py        needs torch 2.13 and torchvision 0.28, on CPU, 1 minute

FCN and DeepLabV3 are torchvision's. The others are written here in torch as their sources have them: PSPNet and
DeepLabV3+ after mmsegmentation's heads and configurations, U-Net after milesial/Pytorch-UNet and after the paper,
FCN-32s to 8s after the Caffe networks' definitions, SegNet after its Caffe network.
"""

import contextlib
from pathlib import Path

with contextlib.suppress(ImportError):
    import torchvision_oracle  # noqa: F401  stands in for torchvision's compiled operators where they cannot load

import numpy as np
import torch
from drawn import drawn, random_image, sample
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet50, segmentation

CLASSES = 5
SIZES = {
    "fcn_resnet50": ((65, 97), (50, 33)),
    "fcn_resnet101": ((65, 97), (50, 33)),
    "deeplabv3_resnet50": ((65, 97), (50, 33)),
    "deeplabv3_resnet101": ((65, 97), (50, 33)),
    "pspnet_resnet50": ((65, 97),),
    "deeplabv3plus_resnet50": ((65, 97),),
    "unet": ((37, 50),),
    "unet/three_stages": ((37, 50),),
    "unet/paper": ((37, 50),),
    "unet/paper_in_two_stages": ((37, 50),),
    "segnet": ((45, 70),),
    "fcn32s_vgg16": ((20, 33),),
    "fcn16s_vgg16": ((20, 33),),
    "fcn8s_vgg16": ((20, 33), (45, 37)),
}
STEP_SIZE = (33, 41)


def resized(x, like):
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


class ConvModule(nn.Module):
    def __init__(self, inputs, outputs, kernel, dilation=1, groups=1):
        super().__init__()
        pad = dilation * (kernel - 1) // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=pad, dilation=dilation, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class Separable(nn.Module):
    def __init__(self, inputs, outputs, dilation=1):
        super().__init__()
        self.depthwise_conv = ConvModule(inputs, inputs, 3, dilation, inputs)
        self.pointwise_conv = ConvModule(inputs, outputs, 1)

    def forward(self, x):
        return self.pointwise_conv(self.depthwise_conv(x))


class PSPHead(nn.Module):
    def __init__(self, channels=512):
        super().__init__()
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bins), ConvModule(2048, channels, 1)) for bins in (1, 2, 3, 6)
        )
        self.bottleneck = ConvModule(2048 + 4 * channels, channels, 3)
        self.conv_seg = nn.Conv2d(channels, CLASSES, 1)

    def forward(self, maps):
        x = maps["layer4"]
        return self.conv_seg(self.bottleneck(torch.cat([x, *(resized(each(x), x) for each in self.psp_modules)], 1)))


class SeparableASPPHead(nn.Module):
    def __init__(self, channels=512):
        super().__init__()
        self.image_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvModule(2048, channels, 1))
        separable = [Separable(2048, channels, rate) for rate in (12, 24, 36)]
        self.aspp_modules = nn.ModuleList([ConvModule(2048, channels, 1), *separable])
        self.bottleneck = ConvModule(5 * channels, channels, 3)
        self.c1_bottleneck = ConvModule(256, 48, 1)
        self.sep_bottleneck = nn.Sequential(Separable(channels + 48, channels), Separable(channels, channels))
        self.conv_seg = nn.Conv2d(channels, CLASSES, 1)

    def forward(self, maps):
        x, low = maps["layer4"], self.c1_bottleneck(maps["layer1"])
        x = torch.cat([resized(self.image_pool(x), x), *(each(x) for each in self.aspp_modules)], 1)
        x = resized(self.bottleneck(x), low)
        return self.conv_seg(self.sep_bottleneck(torch.cat([x, low], 1)))


class AuxiliaryHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.Sequential(ConvModule(1024, 256, 3))
        self.conv_seg = nn.Conv2d(256, CLASSES, 1)

    def forward(self, maps):
        return self.conv_seg(self.convs(maps["layer3"]))


class Backbone(nn.Module):
    """mmsegmentation's ResNetV1c-50 of output stride 8."""

    def __init__(self):
        super().__init__()
        body = resnet50(replace_stride_with_dilation=[False, True, True])
        convolutions = [
            nn.Conv2d(*io, 3, stride, 1, bias=False) for *io, stride in ((3, 32, 2), (32, 32, 1), (32, 64, 1))
        ]
        self.stem = nn.Sequential(
            *(part for each in convolutions for part in (each, nn.BatchNorm2d(each.out_channels), nn.ReLU()))
        )
        self.maxpool = body.maxpool
        for stage in range(1, 5):
            setattr(self, f"layer{stage}", getattr(body, f"layer{stage}"))

    def forward(self, x):
        x, maps = self.maxpool(self.stem(x)), {}
        for stage in range(1, 5):
            maps[f"layer{stage}"] = x = getattr(self, f"layer{stage}")(x)
        return maps


class EncoderDecoder(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.backbone, self.decode_head, self.auxiliary_head = Backbone(), head, AuxiliaryHead()

    def forward(self, x):
        maps = self.backbone(x)
        return {"out": resized(self.decode_head(maps), x), "aux": resized(self.auxiliary_head(maps), x)}


def double_conv(inputs, outputs, pad, norm):
    parts = []
    for channels in (inputs, outputs):
        parts.append(nn.Conv2d(channels, outputs, 3, padding=pad, bias=not norm))
        parts += [nn.BatchNorm2d(outputs), nn.ReLU()] if norm else [nn.ReLU()]
    block = nn.Module()
    block.double_conv = nn.Sequential(*parts)
    block.forward = block.double_conv.forward
    return block


class UNet(nn.Module):
    def __init__(self, width=8, paper=False, stages=4):
        super().__init__()
        self.paper, self.stages = paper, stages
        make = {"pad": 0 if paper else 1, "norm": not paper}
        self.inc = double_conv(3, width, **make)
        for stage in range(1, stages + 1):
            down = nn.Module()
            block = double_conv(width * 2 ** (stage - 1), width * 2**stage, **make)
            down.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), block)
            setattr(self, f"down{stage}", down)
            up, channels = nn.Module(), width * 2 ** (stages - stage)
            up.up = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)
            up.conv = double_conv(2 * channels, channels, **make)
            setattr(self, f"up{stage}", up)
        self.outc = nn.Module()
        self.outc.conv = nn.Conv2d(width, CLASSES, 1)

    def forward(self, images):
        x = images
        if self.paper:  # mirrored to the next larger size of the paper's network, by NumPy, any number of times
            scale = 2**self.stages
            margin = 6 * scale - 4  # 92 at the paper's four stages, whose outputs are of 16 n - 60 pixels
            coarsest = [-(-(size + 4 * scale - 4) // scale) for size in x.shape[2:]]
            spare = [scale * n + 8 * scale - 4 - size for n, size in zip(coarsest, x.shape[2:], strict=True)]
            pad = [(0, 0), (0, 0), *((margin, each - margin) for each in spare)]
            x = torch.from_numpy(np.pad(x.numpy(), pad, mode="reflect"))
        skips = [self.inc(x)]
        for stage in range(1, self.stages + 1):
            skips.append(getattr(self, f"down{stage}").maxpool_conv(skips[-1]))
        x = skips.pop()
        for stage in range(1, self.stages + 1):
            up, skip = getattr(self, f"up{stage}"), skips.pop()
            x = up.up(x)
            dy, dx = (a - b for a, b in zip(skip.shape[2:], x.shape[2:], strict=True))
            if self.paper:
                skip = skip[:, :, dy // 2 : dy // 2 + x.shape[2], dx // 2 : dx // 2 + x.shape[3]]
            else:
                x = F.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
            x = up.conv(torch.cat([skip, x], 1))
        return {"out": self.outc.conv(x)[:, :, : images.shape[2], : images.shape[3]]}


class SegNet(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        parts, channels = [], 3
        self.stages = [(1, 2, width), (2, 2, 2 * width), (3, 3, 4 * width), (4, 3, 8 * width), (5, 3, 8 * width)]
        for _, count, features in self.stages:
            for _ in range(count):
                parts += [nn.Conv2d(channels, features, 3, padding=1), nn.BatchNorm2d(features), nn.ReLU()]
                channels = features
            parts.append(nn.MaxPool2d(2, return_indices=True))
        self.encoder = nn.Module()
        self.encoder.features = nn.Sequential(*parts)
        for stage, count, features in reversed(self.stages):
            for number in range(count, 0, -1):
                below = self.stages[stage - 2][2] if number == 1 and stage > 1 else features
                outputs = CLASSES if (stage, number) == (1, 1) else below
                self.add_module(f"conv{stage}_{number}_D", nn.Conv2d(features, outputs, 3, padding=1))
                if (stage, number) != (1, 1):
                    self.add_module(f"conv{stage}_{number}_D_bn", nn.BatchNorm2d(outputs))

    def forward(self, x):
        memory = []
        for part in self.encoder.features:
            if isinstance(part, nn.MaxPool2d):
                size = x.shape
                x, indices = part(x)
                memory.append((indices, size))
            else:
                x = part(x)
        for stage, count, _ in reversed(self.stages):
            indices, size = memory.pop()
            x = F.max_unpool2d(x, indices, 2, output_size=size[2:])
            for number in range(count, 0, -1):
                name = f"conv{stage}_{number}_D"
                x = self.get_submodule(name)(x)
                if (stage, number) != (1, 1):
                    x = F.relu(self.get_submodule(f"{name}_bn")(x))
        return {"out": x}


class FCN(nn.Module):
    """The networks voc-fcn32s, voc-fcn16s and voc-fcn8s; dense layers in VGG's shape."""

    def __init__(self, stride, width=8, hidden=32):
        super().__init__()
        self.stride, parts, channels = stride, [], 3
        for count, features in ((2, width), (2, 2 * width), (3, 4 * width), (3, 8 * width), (3, 8 * width)):
            for _ in range(count):
                pad = 1 if parts else 100
                parts += [nn.Conv2d(channels, features, 3, padding=pad), nn.ReLU()]
                channels = features
            parts.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*parts)
        self.classifier = nn.ModuleList(
            [nn.Linear(49 * channels, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, hidden)]
        )
        self.score_fr = nn.Conv2d(hidden, CLASSES, 1)

        def enlarge(factor):
            return nn.ConvTranspose2d(CLASSES, CLASSES, 2 * factor, factor, bias=False)

        if stride == 32:
            self.upscore = enlarge(32)
        if stride <= 16:
            self.score_pool4, self.upscore2 = nn.Conv2d(8 * width, CLASSES, 1), enlarge(2)
        if stride == 16:
            self.upscore16 = enlarge(16)
        if stride == 8:
            self.score_pool3, self.upscore_pool4 = nn.Conv2d(4 * width, CLASSES, 1), enlarge(2)
            self.upscore8 = enlarge(8)

    def forward(self, images):
        x, pooled = images, []
        for part in self.features:
            x = part(x)
            if isinstance(part, nn.MaxPool2d):
                pooled.append(x)
        dense6, _, _, dense7 = self.classifier
        x = F.relu(F.conv2d(x, dense6.weight.reshape(len(dense6.weight), -1, 7, 7), dense6.bias))
        x = F.relu(F.conv2d(x, dense7.weight[:, :, None, None], dense7.bias))

        def crop(x, offset, height, width):
            return x[:, :, offset : offset + height, offset : offset + width]

        x = self.score_fr(x)
        if self.stride <= 16:
            x = self.upscore2(x)
            x = x + crop(self.score_pool4(pooled[3]), 5, *x.shape[2:])
        if self.stride == 8:
            x = self.upscore_pool4(x)
            x = x + crop(self.score_pool3(pooled[2]), 9, *x.shape[2:])
        name, offset = {32: ("upscore", 19), 16: ("upscore16", 27), 8: ("upscore8", 31)}[self.stride]
        return {"out": crop(self.get_submodule(name)(x), offset, *images.shape[2:])}


def build(name):
    made = {
        "pspnet_resnet50": lambda: EncoderDecoder(PSPHead()),
        "deeplabv3plus_resnet50": lambda: EncoderDecoder(SeparableASPPHead()),
        "unet": UNet,
        "unet/three_stages": lambda: UNet(stages=3),
        "unet/paper": lambda: UNet(paper=True),
        "unet/paper_in_two_stages": lambda: UNet(paper=True, stages=2),
        "segnet": SegNet,
        **{f"fcn{stride}s_vgg16": lambda stride=stride: FCN(stride) for stride in (32, 16, 8)},
    }
    if name in made:
        model = made[name]()
    else:
        options = {"weights": None, "weights_backbone": None, "num_classes": CLASSES, "aux_loss": True}
        model = getattr(segmentation, name)(**options)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.ndim:
                value.copy_(torch.from_numpy(drawn(key, tuple(value.shape))))
    return model.eval()


def outputs(found):
    for name, sizes in SIZES.items():
        model = build(name)
        found[f"parameters/{name}"] = np.array(sum(each.numel() for each in model.parameters()))
        for height, width in sizes:
            images = torch.from_numpy(random_image(height, width, 2).transpose(0, 3, 1, 2).copy())
            with torch.no_grad():
                result = model(images)
            for key, value in result.items():
                assert value.shape == (2, CLASSES, height, width)
                found[f"outputs/{name}/{height}x{width}/{key}"] = sample(value.permute(0, 2, 3, 1), 1000)
        print(name, {key: float(value.abs().max()) for key, value in result.items()}, flush=True)


def labels(height, width, batch, seed=0):
    """Of CLASSES classes in patches, with a border and a patch that are ignored."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, CLASSES, (batch, -(-height // 4), -(-width // 4)))
    found = coarse.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width].astype(np.uint8)
    found[:, :2] = found[:, 8:12, 8:12] = 255
    return found


def step(found):
    """DeepLabV3 in training mode, without dropout, in float64: torchvision's loss, gradients, running statistics."""
    model = build("deeplabv3_resnet50").double().train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    images = torch.from_numpy(random_image(*STEP_SIZE, 2).transpose(0, 3, 1, 2).copy()).double()
    target = torch.from_numpy(labels(*STEP_SIZE, 2)).long()
    result = model(images)
    losses = {key: F.cross_entropy(value, target, ignore_index=255) for key, value in result.items()}
    loss = losses["out"] + 0.5 * losses["aux"]
    loss.backward()
    found["step/loss"] = loss.detach().numpy()
    for key, parameter in model.named_parameters():
        found[f"step/gradient/{key}"] = sample(parameter.grad, 16).astype(np.float32)
    for key in ("backbone.bn1.running_var", "classifier.0.convs.4.2.running_mean", "aux_classifier.1.running_var"):
        found[f"step/statistic/{key}"] = model.state_dict()[key].numpy()
    print("step", {key: value.item() for key, value in losses.items()}, flush=True)


def layers(found):
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((2, 7, 9, 3)).astype(np.float32))
    found["layers/x"] = x.numpy()
    channels_first = x.permute(0, 3, 1, 2)
    for size in ((7, 9), (20, 13), (3, 4), (56, 72), (1, 30)):
        y = F.interpolate(channels_first, size=size, mode="bilinear", align_corners=False)
        found[f"layers/bilinear/{size[0]}x{size[1]}"] = y.permute(0, 2, 3, 1).numpy()
    for kernel, stride in ((2, 2), (4, 2), (16, 8), (3, 1)):
        weight = drawn(f"transposed.{kernel}.weight", (3, 4, kernel, kernel))
        y = F.conv_transpose2d(channels_first, torch.from_numpy(weight), stride=stride)
        found[f"layers/transposed/{kernel}/{stride}"] = sample(y.permute(0, 2, 3, 1).numpy(), 500)
    for kernel in (2, 3):
        ties = torch.round(channels_first * 2).requires_grad_()
        pooled, indices = F.max_pool2d(ties, kernel, return_indices=True)
        y = F.max_unpool2d(pooled, indices, kernel, output_size=ties.shape[2:])
        (y * channels_first).sum().backward()
        found[f"layers/unpool/{kernel}"] = y.detach().permute(0, 2, 3, 1).numpy()
        found[f"layers/unpool/{kernel}/gradient"] = ties.grad.permute(0, 2, 3, 1).numpy()


def losses(found):
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((2, 12, 10, CLASSES)) * 2
    target = labels(12, 10, 2, seed=1)
    weights = np.array([0.5, 2.0, 1.0, 0.25, 3.0])
    found |= {"losses/logits": logits, "losses/target": target, "losses/weights": weights}
    for name, weight in (("plain", None), ("weighted", torch.from_numpy(weights))):
        x = torch.from_numpy(logits).requires_grad_()
        value = F.cross_entropy(x.permute(0, 3, 1, 2), torch.from_numpy(target).long(), weight, ignore_index=255)
        value.backward()
        found[f"losses/cross_entropy/{name}"] = value.detach().numpy()
        found[f"losses/cross_entropy/{name}/gradient"] = x.grad.numpy()


if __name__ == "__main__":
    found: dict[str, np.ndarray] = {}
    outputs(found)
    step(found)
    layers(found)
    losses(found)
    np.savez_compressed(Path(__file__).parent / "segmenters.npz", **found)
