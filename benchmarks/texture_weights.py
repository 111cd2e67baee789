"""Train the small backbone that ships with silk_nb, on random textures instead of photographs.

The pretext task: how was this picture made? Every training picture is one random relief texture,
or two of them joined along a random shape, in random colours, with light from one side. The
network has to say of each layer what it repeats (noise, waves, dots, checks, bricks, zigzag), how
coarsely and in which direction, and of the shape how large it is, whether it is soft or raised and
whether the colours follow it. Nothing in it knows silk: `silk_nb.synthetic` is not imported, none
of its weaves, motifs, palettes or labels take part, and nothing is downloaded.

    python benchmarks/texture_weights.py --seed 0

writes silk_nb/weights/silk-textures.safetensors: the state dict of torchvision's
shufflenet_v2_x0_5 without its classifier, as float16. About 12 minutes on 2 cores.
"""
import argparse
import math
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torchvision.models import shufflenet_v2_x0_5

OUT = Path(__file__).resolve().parents[1] / "silk_nb" / "weights" / "silk-textures.safetensors"
CANVAS, CROP = 160, 128
KINDS = ("noise", "waves", "dots", "checks", "bricks", "zigzag")
SHAPES = ("smooth", "hard", "ridge")
COLOURING = ("one", "by shape", "patches", "bands")
METADATA = {
    "architecture": "shufflenet_v2_x0_5", "input_size": str(CROP),
    "mean": "0.5,0.5,0.5", "std": "0.25,0.25,0.25",
    "made_by": "benchmarks/texture_weights.py --seed 0", "licence": "Apache-2.0",
    "source": "trained from scratch on procedural textures; no photographs, no silk",
}
# What is asked of a picture: name -> number of classes, or 0 for a number to be regressed.
LAYER = {"kind": len(KINDS), "shape": len(SHAPES), "period": 0, "cos": 0, "sin": 0, "relief": 0,
         "gloss": 0}
TARGETS = {**{f"ground {k}": n for k, n in LAYER.items()},
           **{f"figure {k}": n for k, n in LAYER.items()},
           "outline kind": len(KINDS), "outline period": 0, "outline soft": 0,
           "outline raised": 0, "layers": 2, "colouring": len(COLOURING)}


def draw_parameters(rng: np.random.Generator, low: float, high: float) -> dict:
    """Random parameters of one texture with a period between low and high pixels."""
    return {
        "kind": int(rng.integers(len(KINDS))), "shape": int(rng.integers(len(SHAPES))),
        "period": float(np.exp(rng.uniform(np.log(low), np.log(high)))),
        "aspect": float(np.exp(rng.uniform(-0.7, 0.7))),
        "angle": float(rng.choice([0, 30, 45, 60, 90, 135]) + rng.normal(0, 6)),
        "spread": float(rng.uniform(0.1, 0.7)), "duty": float(rng.uniform(0.3, 0.7)),
        "relief": float(rng.uniform(0, 1)), "gloss": float(rng.uniform(0, 1)),
    }


def draw_field(field: dict, rng: np.random.Generator) -> np.ndarray:
    """The height field of a texture on the canvas, about -1 to 1."""
    angle, kind = np.deg2rad(field["angle"]), KINDS[field["kind"]]
    period, stretch = field["period"], np.sqrt(field["aspect"])
    if kind == "noise":
        fy, fx = np.fft.fftfreq(CANVAS)[:, None], np.fft.rfftfreq(CANVAS)[None]
        u = (np.cos(angle) * fx + np.sin(angle) * fy) * stretch**2
        v = (np.cos(angle) * fy - np.sin(angle) * fx) / stretch**2
        gain = np.exp(-0.5 * ((np.hypot(u, v) * period - 1) / field["spread"]) ** 2)
        out = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((CANVAS, CANVAS))) * gain)
        out = out / (out.std() + 1e-9) * 0.7
    else:
        y, x = np.mgrid[:CANVAS, :CANVAS].astype(np.float32)
        wobble, p = rng.uniform(0, 0.3) * period, rng.uniform(0, 2 * np.pi, 2)
        x, y = (x + wobble * np.sin(y / 37 + p[0]) + rng.uniform(0, 99),
                y + wobble * np.sin(x / 41 + p[1]) + rng.uniform(0, 99))
        u = (np.cos(angle) * x + np.sin(angle) * y) / period * stretch
        v = (np.cos(angle) * y - np.sin(angle) * x) / period / stretch
        tau = 2 * np.pi
        if kind == "waves":
            out = np.sin(tau * u)
        elif kind == "dots":
            out = np.cos(tau * u) + np.cos(tau * v) - 0.6
        elif kind == "checks":
            out = np.sin(tau * u / 2) * np.sin(tau * v / 2) * 1.5
        elif kind == "bricks":
            shift = 0.5 * (np.floor(v) % 2)
            out = 4 * np.minimum(abs((u / 2 + shift) % 1 - 0.5), abs(v % 1 - 0.5)) - 0.6
        else:
            out = np.sin(tau * (u + 1.2 * abs(v / 2 % 1 - 0.5)))
    if SHAPES[field["shape"]] == "hard":
        out = np.tanh(5 * (out + 0.8 * (field["duty"] - 0.5)))
    elif SHAPES[field["shape"]] == "ridge":
        out = 1 - 2 * np.minimum(abs(out), 1)
    return np.clip(out, -1.3, 1.3).astype(np.float32)


def draw_colours(rng: np.random.Generator, colouring: str, mask: np.ndarray) -> np.ndarray:
    """Random colours CANVAS×CANVAS×3: one, two along the shape, or in patches or bands."""
    a, b, c = rng.uniform(0.08, 0.92, (3, 3)).astype(np.float32)
    if colouring == "one":
        return np.broadcast_to(a, (CANVAS, CANVAS, 3)) * (1 + 0.12 * rng.normal() * mask[..., None])
    if colouring == "by shape":
        cells = np.clip(draw_field(draw_parameters(rng, 30, 90), rng) * 4 + rng.normal(), 0, 1)
        b = b + (c - b) * (cells[..., None] if rng.random() < 0.5 else 0)
        return a + (b - a) * mask[..., None]
    field = draw_parameters(rng, 12, 60)
    if colouring == "bands":
        field["kind"], field["angle"] = KINDS.index("waves"), float(rng.choice([0, 90]))
    t = np.clip(4 * draw_field(field, rng) + 0.5, 0, 1)[..., None]
    return a + (b - a) * t


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, list[float]]:
    """One picture, uint8 3×CANVAS×CANVAS, and the answers in the order of TARGETS."""
    ground, figure = draw_parameters(rng, 3, 11), draw_parameters(rng, 3, 11)
    outline, layers = draw_parameters(rng, 16, 64), int(rng.random() < 0.7)
    outline["shape"] = int(rng.integers(2))
    soft, raised = rng.uniform(0, 1) ** 2, rng.normal(0, 1) * (rng.random() < 0.6)
    edge = 8 * (1 - soft) + 0.8
    mask = np.clip(edge * draw_field(outline, rng) * outline["period"] / 30 + 0.5, 0, 1) * layers
    if soft > 0.5 and rng.random() < 0.5:  # torn edges: every column slips on its own
        slip = (rng.normal(0, 3, CANVAS // 4).repeat(4) * soft).astype(int)
        rows = (np.arange(CANVAS)[:, None] + slip[None]) % CANVAS
        mask = mask[rows, np.arange(CANVAS)[None]]
    g, f = draw_field(ground, rng), draw_field(figure, rng)
    scale_g, scale_f = ground["period"] * ground["relief"], figure["period"] * figure["relief"]
    height = (1 - mask) * g * scale_g * 0.35 + mask * (f * scale_f * 0.35 + 2 * raised)
    height += rng.uniform(0, 12) * draw_field({**ground, "kind": 0, "shape": 0, "period": 90.0,
                                               "aspect": 1.0, "spread": 0.5}, rng)
    colouring = int(rng.integers(len(COLOURING)))
    colour = draw_colours(rng, COLOURING[colouring], mask)
    depth = (1 - mask) * g * ground["relief"] + mask * f * figure["relief"]
    colour = colour * (1 + rng.uniform(0, 0.25) * depth[..., None])
    gloss = (1 - mask) * ground["gloss"] + mask * figure["gloss"]
    turn = rng.uniform(0, 2 * np.pi)
    slope_y, slope_x = np.gradient(height)
    slope = np.cos(turn) * slope_x + np.sin(turn) * slope_y
    image = colour * np.clip(1 + rng.uniform(0.15, 0.4) * slope, 0.3, 1.8)[..., None]
    image = image + (0.15 * gloss * np.clip(slope, 0, 2))[..., None]

    def answers(layer: dict) -> list[float]:
        double = 2 * np.deg2rad(layer["angle"])
        period = np.log(layer["period"] / 6)
        return [layer["kind"], layer["shape"], period, np.cos(double), np.sin(double),
                layer["relief"] * 2 - 1, layer["gloss"] * 2 - 1]

    truth = [*answers(ground), *answers(figure), outline["kind"],
             np.log(outline["period"] / 32) * 1.5, soft * 2 - 1, raised, layers, colouring]
    return (np.clip(image, 0, 1) * 255).astype(np.uint8).transpose(2, 0, 1), truth


def draw_pool(seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Many pictures and answers from one seed."""
    rng = np.random.default_rng(seed)
    scenes = [draw_scene(rng) for _ in range(number)]
    return np.stack([s[0] for s in scenes]), np.array([s[1] for s in scenes], np.float32)


def augment(pixels: torch.Tensor, gen: torch.Generator) -> torch.Tensor:
    """Random crop, colour, light, blur and noise; N×3×CROP×CROP, normalised."""
    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=gen) * (high - low) + low

    n = len(pixels)
    y, x = torch.randint(0, CANVAS - CROP + 1, (2, n), generator=gen).tolist()
    crops = [p[:, i:i + CROP, j:j + CROP] for p, i, j in zip(pixels, y, x, strict=True)]
    out = torch.stack(crops).float() / 255
    out = torch.stack([o[torch.randperm(3, generator=gen)] for o in out])
    mean = out.mean(1, keepdim=True)
    out = mean + (out - mean) * uniform(0.3, 1.3, n, 1, 1, 1)  # from nearly grey to vivid
    soft = F.avg_pool2d(out, 3, 1, 1)
    out = out + (soft - out) * uniform(-0.3, 0.6, n, 1, 1, 1)  # sharper or blurred
    ramp = torch.linspace(-1, 1, CROP)
    light = uniform(-0.3, 0.3, n, 1, 1, 1) * ramp + uniform(-0.3, 0.3, n, 1, 1, 1) * ramp[:, None]
    out = out * (1 + light) * uniform(0.7, 1.3, n, 3, 1, 1)
    out = out + torch.randn(out.shape, generator=gen) * uniform(0, 0.04, n, 1, 1, 1)
    return (out.clamp(0, 1) - 0.5) / 0.25


def pretext_loss(output: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, dict]:
    """The sum of all losses, and per target the hits (classes) or the error (numbers)."""
    two = truth[:, list(TARGETS).index("layers")] > 0
    total, score, at = output.new_zeros(()), {}, 0
    for k, (name, classes) in enumerate(TARGETS.items()):
        width, rows = max(1, classes), two if name.split()[0] in ("figure", "outline") else ...
        part, target = output[:, at:at + width][rows], truth[:, k][rows]
        at += width
        if classes:
            total = total + F.cross_entropy(part, target.long())
            score[name] = (part.argmax(1) == target.long()).float().mean().item()
        else:
            total = total + F.smooth_l1_loss(part[:, 0], target)
            score[name] = (part[:, 0] - target).abs().mean().item()
    return total, score


def save(network: torch.nn.Module, path: Path) -> None:
    """Write the network without its classifier, as float16, in one rename."""
    state = {k: (v.half() if v.is_floating_point() else v).contiguous()
             for k, v in network.state_dict().items() if not k.startswith("fc.")}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    save_file(state, part, metadata=METADATA)
    part.chmod(0o644)  # safetensors writes for the owner only
    os.replace(part, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=16000)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--save-every", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    start, chunk = time.time(), 500
    with ProcessPoolExecutor(2) as workers:
        seeds = [args.seed * 100_000 + k for k in range(args.pictures // chunk)]
        pools = list(workers.map(draw_pool, seeds, [chunk] * len(seeds)))
    pixels = torch.from_numpy(np.concatenate([p[0] for p in pools]))
    truth = torch.from_numpy(np.concatenate([p[1] for p in pools]))
    print(f"{len(truth)} textures in {time.time() - start:.0f} s", flush=True)
    torch.set_num_threads(2)
    torch.manual_seed(args.seed)
    gen = torch.Generator().manual_seed(args.seed)
    held_out = torch.arange(len(truth)) % 20 == 0
    train, test = (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]
    network = shufflenet_v2_x0_5(weights=None, num_classes=sum(max(1, n) for n in TARGETS.values()))
    network = network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.02)
    order = torch.empty(0, dtype=torch.long)
    for step in range(args.steps):
        warm = min(1, (step + 1) / 100)
        lr = 3e-3 * warm * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        optimiser.param_groups[0]["lr"] = lr
        if len(order) < args.batch:
            order = train[torch.randperm(len(train), generator=gen)]
        index, order = order[:args.batch], order[args.batch:]
        loss, _ = pretext_loss(network(augment(pixels[index], gen)), truth[index])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}: loss {loss.item():.3f}, {time.time() - start:.0f} s",
                  flush=True)
        if (step + 1) % args.save_every == 0 or step + 1 == args.steps:
            network.eval()
            with torch.no_grad():
                output = torch.cat([network(augment(pixels[i], gen)) for i in test.split(200)])
            loss, score = pretext_loss(output, truth[test])
            print(f"held out: loss {loss.item():.3f},",
                  ", ".join(f"{k} {v:.2f}" for k, v in score.items()), flush=True)
            network.train()
            save(network, args.out)


if __name__ == "__main__":
    main()
