"""Your own pictures, as a Hugging Face ImageFolder: `image_folder.py:path=my_pictures` (several folders: path=a,b)."""

from configs import default


def get_config(argument: str = ""):
    config = default.get_config()
    chosen = default.parse(argument, path="", method=config.method)
    config.method = chosen["method"]
    config.data.name = "image_folder"
    config.data.path = chosen["path"]
    config.model.image_size = 64
    config.model.context_length = 24
    config.model.vocab_size = 4096
    return config
