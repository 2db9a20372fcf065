"""How the shipped teacher was made: ResNet-18 stages 1-3 distilled from random initialisation.

    python -m segrd_edge.training.distill_teacher --teacher resnet18.pth --images textures/ --images photographs/ \
        --out training/teachers/resnet18-edge.safetensors --steps 5000

The student sees random crops of textures, photographs and generated pictures and learns the ImageNet teacher's
features after every residual block, standardised per channel. It is the same architecture, so the file is a drop-in
teacher of 5.6 MB in fp16. The run is resumable (state beside the output) and its figures are written to the .json
beside the weights.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor

from segrd_edge.frames import IMAGE_SUFFIXES, read_frame
from segrd_edge.preprocess import IMAGENET_MEAN, IMAGENET_STD

from .backbone import ResNetFeatures, freeze
from .losses import cosine_distance
from .synthesis import perlin_field
from .teacher import apply_weights, load_teacher

CROP_PX = 128  # small crops and small batches: many steps are what a short distillation needs
BLOCKWISE = 0.6  # share of the steps in which every block learns by itself
HELD_OUT_EVERY = 10  # every tenth picture measures, and is never trained on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="torchvision-style ResNet-18 state dict")
    parser.add_argument("--images", action="append", required=True, help="folder of pictures; repeatable")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    pictures = load_pictures([Path(f) for f in args.images])
    held_out, training = pictures[::HELD_OUT_EVERY], [p for i, p in enumerate(pictures) if i % HELD_OUT_EVERY]
    teacher = ResNetFeatures("resnet18", 3)
    apply_weights(teacher, load_teacher(args.teacher, "resnet18"))
    freeze(teacher)
    student = distil(teacher, training, args)
    figures = {
        "steps": args.steps,
        "batch": args.batch,
        "crop_px": CROP_PX,
        "seed": args.seed,
        "pictures_trained": len(training),
        "pictures_held_out": len(held_out),
        "cosine_similarity_held_out": similarity(teacher, student, held_out),
    }
    state = {k: v.half() for k, v in student.state_dict().items() if not k.endswith("num_batches_tracked")}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, args.out, metadata={"model": "resnet18 stages 1-3, torchvision key names"})
    args.out.with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures))


def distil(teacher: torch.nn.Module, pictures: list[npt.NDArray[np.uint8]], args: argparse.Namespace) -> ResNetFeatures:
    """Train the student for `args.steps`; continues from the state beside the output if there is one.

    First every residual block by itself, fed with the teacher's input to that block: seven easy problems at once, and
    no error of one block reaches the next. Then end to end, BatchNorm fixed, so that the blocks fit each other.
    """
    student = ResNetFeatures("resnet18", 3)
    optimiser = torch.optim.AdamW(student.parameters(), weight_decay=1e-5)
    scales = [channel_scales(unit) for unit in unit_outputs(teacher, crops(pictures, 64, np.random.default_rng(1)))]
    state_file = args.out.with_suffix(".state.pt")
    first = 0
    if state_file.is_file():
        saved = torch.load(state_file, weights_only=True)
        student.load_state_dict(saved["student"])
        optimiser.load_state_dict(saved["optimiser"])
        first = saved["step"]
    started = time.monotonic()
    for step in range(first, args.steps):
        by_block = step < BLOCKWISE * args.steps
        student.train(by_block)
        optimiser.param_groups[0]["lr"] = learning_rate(step / args.steps, args.lr)
        images = crops(pictures, args.batch, np.random.default_rng([args.seed, step]))
        with torch.no_grad():
            wanted = unit_outputs(teacher, images)
        inputs = [images, *wanted[:-1]] if by_block else None
        loss = mismatch(unit_outputs(student, images, inputs), wanted, scales)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step % 50 == 49:
            print(f"step {step + 1} loss {loss.item():.4f} {time.monotonic() - started:.0f} s", flush=True)
        if step % 200 == 199:
            saved = {"student": student.state_dict(), "optimiser": optimiser.state_dict()}
            torch.save({**saved, "step": step + 1}, state_file)
    state_file.unlink(missing_ok=True)
    return student.eval()


def learning_rate(progress: float, peak: float) -> float:
    """A ramp and a half cosine in each of the two parts; the second starts at a quarter of the first."""
    if progress < BLOCKWISE:
        within, top = progress / BLOCKWISE, peak
    else:
        within, top = (progress - BLOCKWISE) / (1 - BLOCKWISE), peak / 4
    return top * min(1.0, 0.1 + within / 0.05) * 0.5 * (1 + math.cos(math.pi * within))


def unit_outputs(network: torch.nn.Module, images: Tensor, inputs: list[Tensor] | None = None) -> list[Tensor]:
    """Outputs of the stem and of every residual block, in order; each sees the one before, or its own of `inputs`."""
    units: list[torch.nn.Module] = [
        torch.nn.Sequential(*(network.get_submodule(name) for name in ("conv1", "bn1", "relu", "maxpool")))
    ]
    units += [block for stage in (1, 2, 3) for block in network.get_submodule(f"layer{stage}").children()]
    outputs: list[Tensor] = []
    for number, unit in enumerate(units):
        outputs.append(unit(inputs[number] if inputs else outputs[-1] if outputs else images))
    return outputs


def mismatch(student: list[Tensor], teacher: list[Tensor], scales: list[Tensor]) -> Tensor:
    """Squared error in units of each channel's spread, plus the cosine distance that the detector will use."""
    losses = [
        ((s - t) / scale).square().mean() + cosine_distance(t, s).mean()
        for s, t, scale in zip(student, teacher, scales, strict=True)
    ]
    return torch.stack(losses).sum()


def load_pictures(folders: list[Path]) -> list[npt.NDArray[np.uint8]]:
    """All pictures under `folders`, the longer side at most 320 px, and as many generated ones as a third of them."""
    pictures = []
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES):
            frame = read_frame(path)
            scale = min(1.0, 320 / max(frame.shape[:2]))
            if scale < 1:
                frame = np.asarray(cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
            pictures.append(frame)
    pictures += [generated(np.random.default_rng([7, i])) for i in range(len(pictures) // 3)]
    return pictures


def generated(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A picture of smooth noise in random colours, cut into two materials by a third field, with a few drawn shapes."""
    size = (256, 256)
    fields = [perlin_field(size, rng)[..., None] for _ in range(3)]
    colours = rng.uniform(0, 255, (4, 3))
    halves = [colours[2 * i] + (colours[2 * i + 1] - colours[2 * i]) * (fields[i] + 0.5) for i in range(2)]
    picture = np.clip(np.where(fields[2] > 0, *halves), 0, 255).astype(np.uint8)
    for _ in range(rng.integers(0, 8)):
        colour = [int(c) for c in rng.integers(0, 256, 3)]
        a, b = rng.integers(0, 256, 2), rng.integers(0, 256, 2)
        if rng.random() < 0.5:
            cv2.circle(picture, a.tolist(), int(rng.integers(3, 60)), colour, int(rng.integers(-1, 8)), cv2.LINE_AA)
        else:
            cv2.line(picture, a.tolist(), b.tolist(), colour, int(rng.integers(1, 12)), cv2.LINE_AA)
    return np.clip(picture + rng.normal(0, rng.uniform(0, 12), picture.shape), 0, 255).astype(np.uint8)


def crops(pictures: list[npt.NDArray[np.uint8]], count: int, rng: np.random.Generator) -> Tensor:
    """`count` random crops as normalised images (count×3×128×128): scale, flips, quarter turns, gain and tint vary."""
    batch = np.empty((count, CROP_PX, CROP_PX, 3), np.float32)
    for i in range(count):
        picture = pictures[rng.integers(len(pictures))]
        height, width = picture.shape[:2]
        side = int(min(height, width, rng.uniform(64, 224)))
        top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
        crop = picture[top : top + side, left : left + side]
        how = cv2.INTER_AREA if side > CROP_PX else cv2.INTER_LINEAR
        crop = np.asarray(cv2.resize(crop, (CROP_PX, CROP_PX), interpolation=how))
        crop = np.rot90(crop, int(rng.integers(4)))
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        tint = rng.uniform(0.7, 1.3) * rng.uniform(0.9, 1.1, 3)
        batch[i] = np.clip(crop * tint + rng.uniform(-25, 25), 0, 255)
    rgb = torch.from_numpy(batch[..., ::-1] / 255).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return ((rgb - mean) / std).contiguous(memory_format=torch.channels_last)


def channel_scales(features: Tensor) -> Tensor:
    """Standard deviation of every channel (N×C×h×w → 1×C×1×1), so that no unit and no channel dominates the loss."""
    return features.std(dim=(0, 2, 3), keepdim=True).clamp_min(0.05).detach()


@torch.no_grad()
def similarity(
    teacher: torch.nn.Module, student: torch.nn.Module, pictures: list[npt.NDArray[np.uint8]]
) -> list[float]:
    """Mean cosine similarity per stage over crops of held-out pictures."""
    images = crops(pictures, 128, np.random.default_rng(2))
    pairs = zip(teacher(images), student(images), strict=True)
    return [round(1 - float(cosine_distance(t, s).mean()), 4) for t, s in pairs]


if __name__ == "__main__":
    main()
