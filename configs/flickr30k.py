"""Flickr30k in Karpathy's split, from CLIP ViT-B/32: `flickr30k.py:path=FLICKR30K`."""

from configs import coco, default


def get_config(argument: str = ""):
    config = coco.get_config()
    chosen = default.parse(argument, path="", noise=0.0, method=config.method)
    config.method = chosen["method"]
    config.data.dataset = "flickr30k"
    config.data.path = chosen["path"]
    config.data.noise = chosen["noise"]
    config.data.validation_size = 0  # all 1,014
    config.train.steps = 25 * 1133  # epochs of 145,000 captions
    config.checkpoint.every = 1133
    return config
