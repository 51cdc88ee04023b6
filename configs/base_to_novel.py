"""Base-to-novel: 16 shots of the first half of the classes, evaluated on both halves.

`base_to_novel.py:dataset=eurosat,root=DATA,method=vacsr`. For your own data, `dataset` is a folder below root.
"""

from configs import default


def get_config(argument: str = ""):
    config = default.get_config()
    chosen = default.parse(argument, dataset="", root="", method=config.method, template=config.data.template)
    config.method = chosen["method"]
    config.seed = 1  # the published draws have seeds 1, 2 and 3
    config.model.pretrained = "openai/clip-vit-base-patch16"
    config.data.name = "classification"
    config.data.dataset = chosen["dataset"]
    config.data.path = chosen["root"]
    config.data.template = chosen["template"]
    config.data.subset = "base"
    config.augment.images = "area"
    config.optim.warmup_steps = 0
    config.optim.image_lr = config.optim.text_lr = 0.005  # 5e-6 for the towers; the paper gives no rate
    config.train.epochs = 5
    config.train.batch_size = 16
    config.checkpoint.every = 1_000_000  # so that only the last model is evaluated
    return config
