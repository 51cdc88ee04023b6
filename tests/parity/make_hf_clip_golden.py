"""Writes the golden CLIP: a tiny random Hugging Face CLIPModel, inputs, and torch's outputs.

It needs torch and transformers; torch is not a dependency of the library:

    python tests/parity/make_hf_clip_golden.py
"""

from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import CLIPConfig, CLIPModel

GOLDEN = Path(__file__).parent / "golden" / "hf_clip"


def build_model(seed: int = 0, **text) -> CLIPModel:
    """A CLIP whose every parameter is random and large enough to matter, biases and norms included."""
    torch.manual_seed(seed)
    text = {
        "vocab_size": 99,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 12,
        "bos_token_id": 98,
        "eos_token_id": 97,  # not the largest id, so pooling at the argmax would be noticed
        "pad_token_id": 1,
        **text,
    }
    vision = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim:
                noise = torch.randn_like(parameter) * (parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3)
                parameter.copy_(1 + noise if "norm" in name and name.endswith("weight") else noise)
    return model


def make_inputs(config: CLIPConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Normalized pixels [3, 3, 32, 32] and ids [4, 12]: ends early, late, twice, and pads that are not the end."""
    rng = np.random.default_rng(seed)
    text = config.text_config
    end = 49407 if text.eos_token_id == 2 else text.eos_token_id
    ids = rng.integers(3, 90, (4, text.max_position_embeddings))
    ids[:, 0] = text.bos_token_id
    for row, stop in enumerate((3, 11, 6, 1)):
        ids[row, stop] = end
        ids[row, stop + 1 :] = text.pad_token_id
    ids[2, 8] = end
    pixels = rng.normal(size=(3, 3, config.vision_config.image_size, config.vision_config.image_size))
    return {"pixels": pixels.astype(np.float32), "ids": ids}


def run_model(model: CLIPModel, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tokens after the final norm, pooled features and embeddings that are not normalized, of both towers."""
    with torch.no_grad():
        vision = model.vision_model(pixel_values=torch.from_numpy(inputs["pixels"]))
        text = model.text_model(input_ids=torch.from_numpy(inputs["ids"]))
        outputs = {
            "image_tokens": model.vision_model.post_layernorm(vision.last_hidden_state),
            "image_pooled": vision.pooler_output,
            "image_embedding": model.visual_projection(vision.pooler_output),
            "text_tokens": text.last_hidden_state,
            "text_pooled": text.pooler_output,
            "text_embedding": model.text_projection(text.pooler_output),
        }
    return {name: x.numpy() for name, x in outputs.items()}


if __name__ == "__main__":
    model = build_model()
    model.save_pretrained(GOLDEN)
    inputs = make_inputs(model.config)
    np.savez(GOLDEN / "golden.npz", **inputs, **run_model(model, inputs))
    print(f"{GOLDEN}: torch {torch.__version__}, transformers {transformers.__version__}")
