"""What the everyday path is measured against in PyTorch: CLIP's towers as written there, and its data loader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vacsr_jax.towers.base import TextConfig, VisionConfig
from vacsr_jax.towers.clip import CLIPConfig


def clip(
    params: Any, config: CLIPConfig
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """CLIP's two towers with the weights of ours: functions of images uint8 [b s s 3] and of token ids [b l].

    As the common implementations have it: a convolution for the patches, one product for queries, keys and values, and
    PyTorch's fused attention.
    """
    import torch
    from torch.nn import functional

    def tensor(x) -> torch.Tensor:
        return torch.from_numpy(np.array(x, np.float32))

    def linear(p: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        return tensor(np.transpose(p["kernel"])), tensor(p["bias"]) if "bias" in p else None

    def norm(p: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return tensor(p["scale"]), tensor(p["bias"])

    def block(p: Any) -> dict[str, Any]:
        attention = p["attention"]
        joined = [np.concatenate([attention[x][y] for x in ("query", "key", "value")], -1) for y in ("kernel", "bias")]
        return {
            "norms": [norm(p["norm_1"]), norm(p["norm_2"])],
            "qkv": linear(dict(zip(("kernel", "bias"), joined, strict=True))),
            "out": linear(attention["out"]),
            "mlp": [linear(p["mlp_in"]), linear(p["mlp_out"])],
        }

    def layer_norm(x, weights):
        return functional.layer_norm(x, x.shape[-1:], *weights, eps=config.layer_norm_eps)

    def transformer(x, blocks, tower: VisionConfig | TextConfig, causal: bool):
        b, length, width = x.shape
        for p in blocks:
            joined = functional.linear(layer_norm(x, p["norms"][0]), *p["qkv"])
            query, key, value = joined.view(b, length, 3, tower.heads, width // tower.heads).permute(2, 0, 3, 1, 4)
            y = functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
            x = x + functional.linear(y.transpose(1, 2).reshape(b, length, width), *p["out"])
            y = functional.linear(layer_norm(x, p["norms"][1]), *p["mlp"][0])
            x = x + functional.linear(y * torch.sigmoid(1.702 * y), *p["mlp"][1])
        return x

    def blocks_of(p: Any, tower: VisionConfig | TextConfig) -> list[dict[str, Any]]:
        return [block(p["transformer"][f"block_{i}"]) for i in range(tower.layers)]

    vision, text, patch = params["vision"], params["text"], config.vision.patch_size
    image_blocks, text_blocks = blocks_of(vision, config.vision), blocks_of(text, config.text)
    kernel = tensor(vision["patch_embedding"]["kernel"]).view(patch, patch, 3, -1).permute(3, 2, 0, 1).contiguous()
    first, image_positions = tensor(vision["class_embedding"]), tensor(vision["position_embedding"])
    before, after, last = norm(vision["pre_norm"]), norm(vision["post_norm"]), norm(text["final_norm"])
    mean, std = (tensor(x).view(1, 3, 1, 1) for x in (config.vision.pixel_mean, config.vision.pixel_std))
    table, text_positions = tensor(text["token_embedding"]), tensor(text["position_embedding"])
    image_projection, text_projection = linear(params["vision_projection"]), linear(params["text_projection"])

    @torch.inference_mode()
    def encode_images(images: np.ndarray) -> np.ndarray:
        pixels = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std
        x = functional.conv2d(pixels, kernel, stride=patch).flatten(2).transpose(1, 2)
        x = torch.cat([first.expand(len(x), 1, -1), x], dim=1) + image_positions
        x = transformer(layer_norm(x, before), image_blocks, config.vision, causal=False)
        return functional.linear(layer_norm(x[:, 0], after), *image_projection).numpy()

    @torch.inference_mode()
    def encode_texts(tokens: np.ndarray) -> np.ndarray:
        ids = torch.from_numpy(tokens.astype(np.int64))
        x = functional.embedding(ids, table) + text_positions[: ids.shape[1]]
        x = transformer(x, text_blocks, config.text, causal=True)
        end = (ids == config.text.end_id).int().argmax(dim=1)
        pooled = layer_norm(x[torch.arange(len(x)), end], last)
        return functional.linear(pooled, *text_projection).numpy()

    return encode_images, encode_texts


class Photographs:
    """A map-style dataset of files, as torchvision's are: an image is decoded, made RGB and transformed."""

    def __init__(self, files: Sequence[Path], transform: Callable, length: int):
        self.files, self.transform, self.length = files, transform, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int):
        with Image.open(self.files[i % len(self.files)]) as image:
            return self.transform(image.convert("RGB"))


class PartOfBothSides:
    """PCME++'s crop: one random ratio of both sides, .6 to 1, squashed to a square (bilinear)."""

    def __init__(self, size: int):
        self.size = size

    def __call__(self, image: Image.Image) -> Image.Image:
        import torch
        from torchvision import transforms

        ratio = float(torch.empty(1).uniform_(0.6, 1.0))
        part = transforms.RandomCrop.get_params(image, (int(image.height * ratio), int(image.width * ratio)))
        bilinear = transforms.InterpolationMode.BILINEAR
        return transforms.functional.resized_crop(image, *part, [self.size, self.size], bilinear)


def loader(
    files: Sequence[Path], kind: str, size: int, batch_size: int, *, workers: int = 0, normalized: bool = False
) -> Iterator:
    """Batches without end from `torch.utils.data.DataLoader` and torchvision, augmented as "clip" or "pcmepp".

    uint8 as our loader's batches, or `normalized` floats, as recipes with torchvision have them.
    """
    from torch.utils.data import DataLoader
    from torchvision import transforms

    bicubic = transforms.InterpolationMode.BICUBIC
    crops = {
        "clip": [transforms.Resize(size, bicubic), transforms.RandomCrop(size)],
        "pcmepp": [PartOfBothSides(size), transforms.RandomHorizontalFlip()],
    }
    floats = [transforms.ToTensor(), transforms.Normalize((0.48, 0.46, 0.41), (0.27, 0.26, 0.28))]
    steps = crops[kind] + (floats if normalized else [transforms.PILToTensor()])
    photographs = Photographs(files, transforms.Compose(steps), length=1 << 20)
    return iter(DataLoader(photographs, batch_size, num_workers=workers))
