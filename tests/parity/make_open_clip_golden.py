"""Writes golden OpenCLIP folders: tiny random models of three styles, inputs, and torch's outputs.

It needs torch, open_clip_torch, timm and sentencepiece, which are not dependencies of the library:

    python tests/parity/make_open_clip_golden.py
"""

import json
import shutil
from pathlib import Path

import make_hf_siglip_golden as siglip
import numpy as np
import open_clip
import timm
import torch
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.tokenizer import HFTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from transformers import BertTokenizer, CLIPTokenizer

GOLDEN = Path(__file__).parent / "golden" / "open_clip"
TIMM_SIZE = (32, 2, 4, 56)  # of "vit_tiny_patch12_siglip_38": width, layers, heads, hidden units
VISION = {"image_size": 24, "layers": 2, "width": 24, "head_width": 6, "patch_size": 8}
TEXT = {"context_length": 12, "width": 24, "heads": 4, "layers": 2}
STYLES = {
    # OpenAI's: a class token, a causal text tower, quick GELU.
    "clip": {
        "model_cfg": {
            "embed_dim": 20,
            "quick_gelu": True,
            "vision_cfg": VISION,
            "text_cfg": {**TEXT, "vocab_size": 520, "hf_tokenizer_name": "local"},
        },
        "preprocess_cfg": {"mean": [0.48, 0.45, 0.4], "std": [0.26, 0.26, 0.27]},
    },
    # SigLIP's: timm's image tower, an end token without a start, a bias.
    "siglip": {
        "model_cfg": {
            "embed_dim": 32,
            "init_logit_bias": -10,
            "custom_text": True,
            "vision_cfg": {
                "image_size": 38,
                "timm_model_name": "vit_tiny_patch12_siglip_38",
                "timm_model_pretrained": False,
                "timm_pool": "map",
                "timm_proj": "none",
            },
            "text_cfg": {
                **TEXT,
                "vocab_size": 99,
                "hf_tokenizer_name": "local",
                "tokenizer_kwargs": {"clean": "canonicalize"},
                "mlp_ratio": 3.7362,
                "no_causal_mask": True,
                "proj_bias": True,
                "pool_type": "last",
                "norm_kwargs": {"eps": 1e-6},
                "act_kwargs": {"approximate": "tanh"},
            },
        },
        "preprocess_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    },
    # CLIPA's: no norm before the blocks, the mean of the patches, BERT's words, the last of them.
    "clipa": {
        "model_cfg": {
            "embed_dim": 20,
            "vision_cfg": {**VISION, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
            "text_cfg": {
                **TEXT,
                "vocab_size": 60,
                "hf_tokenizer_name": "local",
                "tokenizer_kwargs": {"strip_sep_token": True},
                "pool_type": "last",
                "no_causal_mask": True,
            },
        },
        "preprocess_cfg": {"interpolation": "bilinear", "resize_mode": "shortest"},
    },
}


@register_model
def vit_tiny_patch12_siglip_38(pretrained=False, **options):
    width, layers, heads, mlp_width = TIMM_SIZE
    sizes = {"embed_dim": width, "depth": layers, "num_heads": heads, "mlp_ratio": mlp_width / width}
    options = {**options, "img_size": 38, "patch_size": 12, "class_token": False, "global_pool": "map"}
    for name in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        options.pop(name, None)
    return VisionTransformer(**sizes, **options)


def build_model(style: str, seed: int = 0) -> torch.nn.Module:
    """A model whose every parameter is random and large enough to matter, biases and norms included."""
    torch.manual_seed(seed)
    config = dict(STYLES[style]["model_cfg"])
    model = (CustomTextCLIP if config.pop("custom_text", False) else CLIP)(**config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.numel() > 1:
                noise = torch.randn_like(parameter) * (parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3)
                is_norm = ("ln_" in name or "norm" in name) and name.endswith("weight")
                parameter.copy_(1 + noise if is_norm else noise)
    return model


def save_tokenizer(style: str, folder: Path) -> None:
    if style == "siglip":
        for name in ("spiece.model", "tokenizer_config.json"):
            shutil.copy(siglip.GOLDEN / name, folder)
    elif style == "clipa":
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *siglip.LINE.split(), "##s", ".", "!", ","]
        BertTokenizer(vocab={word: i for i, word in enumerate(dict.fromkeys(words))}).save_pretrained(folder)
    else:
        plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
        alphabet = [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]
        merges = [("c", "a"), ("ca", "t</w>")]
        tokens = alphabet + [c + "</w>" for c in alphabet] + ["".join(pair) for pair in merges]
        tokens += [f"<|unused{i}|>" for i in range(4)] + ["<|startoftext|>", "<|endoftext|>"]
        CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=merges).save_pretrained(folder)


def save_folder(style: str, folder: Path, model: torch.nn.Module) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(STYLES[style], indent=2) + "\n")
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    save_tokenizer(style, folder)


def make_inputs(style: str, folder: Path) -> dict[str, np.ndarray]:
    """The pictures as OpenCLIP prepares them, and the ids of the texts."""
    config = STYLES[style]
    text = config["model_cfg"]["text_cfg"]
    size = config["model_cfg"]["vision_cfg"]["image_size"]
    prepare = image_transform_v2(PreprocessCfg(size=size, **config["preprocess_cfg"]), is_train=False)
    pictures = torch.stack([prepare(x.convert("RGB")) for x in siglip.make_pictures()])
    tokenizer = HFTokenizer(str(folder), context_length=text["context_length"], **text.get("tokenizer_kwargs", {}))
    return {"pictures": pictures.numpy(), "ids": tokenizer(siglip.TEXTS).numpy()}


def run_model(model: torch.nn.Module, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Embeddings that are not normalized, and the logits."""
    pictures, ids = torch.from_numpy(inputs["pictures"]), torch.from_numpy(inputs["ids"])
    with torch.no_grad():
        return {
            "image_embedding": model.encode_image(pictures).numpy(),
            "text_embedding": model.encode_text(ids).numpy(),
            "logits": model.get_logits(pictures, ids)[0].numpy(),
        }


if __name__ == "__main__":
    for style in STYLES:
        folder, model = GOLDEN / style, build_model(style)
        save_folder(style, folder, model)
        inputs = make_inputs(style, folder)
        np.savez(folder / "golden.npz", **inputs, **run_model(model, inputs))
    print(f"{GOLDEN}: torch {torch.__version__}, open_clip {open_clip.__version__}, timm {timm.__version__}")
