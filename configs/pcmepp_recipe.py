"""The PCME++ training recipe on a pretrained CLIP, which VACSR follows: `pcmepp_recipe.py:path=my_pictures`.

`apply` sets it in another config. It was published for COCO (configs/coco.py).
"""

from configs import default

CLIPS = {
    "ViT-B/32": "openai/clip-vit-base-patch32",
    "ViT-B/16": "openai/clip-vit-base-patch16",
    "ViT-L/14": "openai/clip-vit-large-patch14",
}
EPOCHS = 25


def get_config(argument: str = ""):
    config = default.get_config()
    chosen = default.parse(argument, path="", method=config.method, clip="ViT-B/32", noise=0.0, epoch=100)
    config.data.name = "image_folder"
    config.data.path = chosen["path"]
    return apply(config, method=chosen["method"], clip=chosen["clip"], noise=chosen["noise"], epoch=chosen["epoch"])


def apply(config, *, method: str, clip: str, noise: float, epoch: int):
    """Sets the recipe for a method. `epoch` is the number of steps in one pass over the captions, in batches of 128."""
    if clip not in CLIPS:
        raise ValueError(f"clip={clip}: expected one of {', '.join(CLIPS)}")
    config.method = method
    config.data.noise = noise
    config.model.pretrained = CLIPS[clip]
    config.model.preprocess = "pcmepp"
    config.model.pooling = "gpo"
    config.model.embedding_dim = 1024

    config.train.batch_size = 128
    config.train.steps = EPOCHS * epoch
    config.checkpoint.every = epoch

    config.optim.name = "adamp"
    config.optim.lr = 5e-4
    config.optim.schedule = "step"  # at epoch 15 of 25
    config.optim.warmup_steps = 0
    config.optim.weight_decay = 1e-4
    config.optim.decayed = "all"
    config.optim.clip_norm = 2.0
    config.optim.image_lr = 0.01
    config.optim.text_lr = 0.1
    config.optim.layer_decay = 0.7
    config.optim.image_frozen_steps = 2 * epoch
    config.optim.ramp_steps = epoch

    config.augment.images = "pcmepp"
    config.augment.tokens = 0.2
    config.augment.image_tokens = 0.2
    if method in ("pcmepp", "vacsr", "deterministic"):  # the published baselines do without these
        config.augment.mix = 0.25
        config.augment.label_smoothing = 1e-4
        config.optim.average_from = 16 * epoch
        config.optim.average_every = epoch

    config.cosine.scale = 1.0 if method == "infonce" else 10.0
    config.triplet.all_negatives_steps = 2 * epoch
    config.pcmepp.variance = 1024.0  # log sigma^2 starts at 0
    config.pcmepp.pseudo_positives = 0.1 if noise == 0 else 0.01 if noise < 0.5 else 0.0
    return config
