"""Flickr30k in Karpathy's split with PCME++'s recipe: `flickr30k.py:path=FLICKR30K,method=vacsr,clip=ViT-B/32`."""

from configs import coco, default, pcmepp_recipe

EPOCH = 1133  # steps: 145,000 captions in batches of 128


def get_config(argument: str = ""):
    config = coco.get_config()
    chosen = default.parse(argument, path="", noise=0.0, method=config.method, clip="ViT-B/32")
    config.data.dataset = "flickr30k"
    config.data.path = chosen["path"]
    config.data.validation_size = 0  # all 1,014 images
    recipe = {name: chosen[name] for name in ("method", "clip", "noise")}
    return pcmepp_recipe.apply(config, epoch=EPOCH, **recipe)
