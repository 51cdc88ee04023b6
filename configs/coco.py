"""COCO in Karpathy's split, from CLIP ViT-B/32: `coco.py:path=COCO`, `coco.py:path=~/tensorflow_datasets,form=tfds`."""

from configs import default


def get_config(argument: str = ""):
    config = default.get_config()
    chosen = default.parse(argument, path="", form="karpathy", ground_truth="", noise=0.0, method=config.method)
    config.method = chosen["method"]
    config.data.name = "captions"
    config.data.dataset = "coco"
    config.data.path = chosen["path"]
    config.data.form = chosen["form"]
    config.data.ground_truth = chosen["ground_truth"]
    config.data.noise = chosen["noise"]
    config.data.validation_size = 1000  # images; as PCME++ chooses its checkpoint
    config.data.workers = 8
    config.model.pretrained = "openai/clip-vit-base-patch32"
    config.train.batch_size = 128
    config.train.steps = 25 * 4426  # epochs of 566,435 captions
    config.checkpoint.every = 4426
    return config
