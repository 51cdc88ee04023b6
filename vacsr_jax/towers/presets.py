"""The shapes of well-known two-tower models, by name, to train from scratch."""

import dataclasses

from vacsr_jax.towers.base import TextConfig, TowersConfig, VisionConfig
from vacsr_jax.towers.clip import CLIPConfig

PRESETS: dict[str, TowersConfig] = {
    "ViT-B/32": CLIPConfig(
        vision=VisionConfig(image_size=224, patch_size=32, width=768, layers=12, heads=12, mlp_width=3072),
        text=TextConfig(vocab_size=49408, context_length=77, width=512, layers=12, heads=8, mlp_width=2048),
        embedding_dim=512,
    ),
    "ViT-B/16": CLIPConfig(
        vision=VisionConfig(image_size=224, patch_size=16, width=768, layers=12, heads=12, mlp_width=3072),
        text=TextConfig(vocab_size=49408, context_length=77, width=512, layers=12, heads=8, mlp_width=2048),
        embedding_dim=512,
    ),
    "ViT-L/14": CLIPConfig(
        vision=VisionConfig(image_size=224, patch_size=14, width=1024, layers=24, heads=16, mlp_width=4096),
        text=TextConfig(vocab_size=49408, context_length=77, width=768, layers=12, heads=12, mlp_width=3072),
        embedding_dim=768,
    ),
    "ViT-L/14-336": CLIPConfig(
        vision=VisionConfig(image_size=336, patch_size=14, width=1024, layers=24, heads=16, mlp_width=4096),
        text=TextConfig(vocab_size=49408, context_length=77, width=768, layers=12, heads=12, mlp_width=3072),
        embedding_dim=768,
    ),
    # For the drawn scenes: learns on a CPU in a minute. Four patches, one per drawn cell, normalized. Embeddings start
    # large: with CLIP's .02 the first residual branch dominates the words (mAP@R halves after 600 steps).
    "tiny": CLIPConfig(
        vision=VisionConfig(
            image_size=32,
            patch_size=16,
            width=128,
            layers=2,
            heads=4,
            mlp_width=512,
            activation="gelu",
            pool="mean",
            patch_normalization=True,
            pixel_mean=(0.5, 0.5, 0.5),
            pixel_std=(1.0, 1.0, 1.0),
            position_std=1.0,
        ),
        text=TextConfig(
            vocab_size=512,
            context_length=20,
            width=64,
            layers=1,
            heads=4,
            mlp_width=256,
            activation="gelu",
            pool="mean",
            causal=False,
            token_std=1.0,
            position_std=1.0,
            pad_id=0,
            start_id=1,
            end_id=2,
        ),
        embedding_dim=64,
    ),
}
# The same with four times as many patches, none of which is a cell of a scene.
PRESETS["tiny/8"] = dataclasses.replace(
    PRESETS["tiny"], vision=dataclasses.replace(PRESETS["tiny"].vision, patch_size=8)
)
