"""Embeddings of any models in place of pictures and texts: `embeddings.py:path=embeddings.npz,method=propensity`.

The pair model starts as the cosine of the embeddings (`adapter.residual`, residual projections), and training stops
when the validation part no longer gains. With d_v != d_t add `image=linear` or `text=linear`.
"""

from configs import default


def get_config(argument: str = ""):
    config = default.get_config()
    chosen = default.parse(argument, path="", method="propensity", image="residual", text="residual", noise=0.0)
    config.method = chosen["method"]
    config.data.name = "embeddings"
    config.data.path = chosen["path"]
    config.data.noise = chosen["noise"]
    config.data.validation_size = 1000
    config.data.test_size = 5000
    config.model.image_projection = chosen["image"]
    config.model.text_projection = chosen["text"]
    config.adapter.residual = True
    config.propensity.unit = True
    config.propensity.head_width = 64
    config.train.batch_size = 256
    config.train.steps = 2000
    config.train.patience = 5
    config.train.tile_pairs = 1 << 16
    config.optim.lr = 3e-4
    config.optim.warmup_steps = 50
    config.checkpoint.every = 50
    return config
