"""COCO in Karpathy's split with PCME++'s recipe: `coco.py:path=COCO,method=vacsr,clip=ViT-B/32,noise=0.2`.

`path=~/tensorflow_datasets,form=tfds` reads TFDS's array_record files. Preprocessing and augmentation are those of the
published recipe. For CLIP's own: --config.model.preprocess=clip --config.augment.images=clip.
"""

from configs import default, pcmepp_recipe

EPOCH = 4426  # steps: 566,435 captions in batches of 128


def get_config(argument: str = ""):
    config = default.get_config()
    chosen = default.parse(
        argument, path="", form="karpathy", ground_truth="", noise=0.0, method=config.method, clip="ViT-B/32"
    )
    config.data.name = "captions"
    config.data.dataset = "coco"
    config.data.path = chosen["path"]
    config.data.form = chosen["form"]
    config.data.ground_truth = chosen["ground_truth"]
    config.data.validation_size = 1000  # images: what PCME++ chooses its checkpoint by
    config.data.workers = 8
    recipe = {name: chosen[name] for name in ("method", "clip", "noise")}
    return pcmepp_recipe.apply(config, epoch=EPOCH, **recipe)
