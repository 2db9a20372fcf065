"""How the shipped teacher was made: ResNet-18 stages 1-3 distilled from random initialisation.

    python -m segrd_edge.training.distill_teacher --teacher resnet18.pth --images textures/ --images photographs/ \
        --out training/teachers/resnet18-edge.safetensors --steps 3000

The student sees random crops of textures, photographs and generated pictures and learns the ImageNet teacher's
features of each stage, standardised per channel. It is the same architecture, so the file is a drop-in teacher of 5.6
MB in fp16. The run is resumable (state beside the output) and its figures are written to the .json beside the weights.
"""

from __future__ import annotations

import argparse
import json
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

CROP_PX = 96  # small crops and small batches: many steps are what a short distillation needs
HELD_OUT_EVERY = 10  # every tenth picture measures, and is never trained on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="torchvision-style ResNet-18 state dict")
    parser.add_argument("--images", action="append", required=True, help="folder of pictures; repeatable")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=16)
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
    """Train the student for `args.steps`; continues from the state beside the output if there is one."""
    student = ResNetFeatures("resnet18", 3)
    optimiser = torch.optim.AdamW(student.parameters(), lr=args.lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, args.lr, args.steps, pct_start=0.1)
    scales = channel_scales(teacher, pictures)
    state_file = args.out.with_suffix(".state.pt")
    first = 0
    if state_file.is_file():
        saved = torch.load(state_file, weights_only=True)
        student.load_state_dict(saved["student"])
        optimiser.load_state_dict(saved["optimiser"])
        schedule.load_state_dict(saved["schedule"])
        first = saved["step"]
    student.train()
    started = time.monotonic()
    for step in range(first, args.steps):
        images = crops(pictures, args.batch, np.random.default_rng([args.seed, step]))
        with torch.no_grad():
            wanted = teacher(images)
        loss = torch.stack(
            [
                (((s - t) / scale).square().mean() + cosine_distance(t, s).mean())
                for s, t, scale in zip(student(images), wanted, scales, strict=True)
            ]
        ).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if step % 50 == 49:
            print(f"step {step + 1} loss {loss.item():.4f} {time.monotonic() - started:.0f} s", flush=True)
        if step % 200 == 199:
            saved = {"student": student.state_dict(), "optimiser": optimiser.state_dict()}
            torch.save({**saved, "schedule": schedule.state_dict(), "step": step + 1}, state_file)
    state_file.unlink(missing_ok=True)
    return student.eval()


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
    """`count` random crops as normalised images (count×3×96×96): scale, flips, quarter turns, gain and tint vary."""
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


@torch.no_grad()
def channel_scales(teacher: torch.nn.Module, pictures: list[npt.NDArray[np.uint8]]) -> list[Tensor]:
    """Standard deviation of every teacher channel over 64 crops (1×C×1×1 per stage), so that no stage dominates."""
    features = teacher(crops(pictures, 64, np.random.default_rng(1)))
    return [f.std(dim=(0, 2, 3), keepdim=True).clamp_min(0.05) for f in features]


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
