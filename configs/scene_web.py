"""Towers for scenes, pretrained by InfoNCE on a drawn "web", as CLIP was on the real one (data/scene_web.py)."""

from configs import default


def get_config():
    config = default.get_config()
    config.method = "infonce"
    config.data.name = "scene_web"
    config.data.train_size = 200_000  # pictures, one text each; with 60,000 the validation rsum falls after 1,200 steps
    config.data.validation_size = 500
    config.model.context_length = 32  # a word of a scene's caption that the web never uses is several tokens
    config.train.batch_size = 256
    config.train.steps = 2000
    return config
