"""Your own pictures in a repository of Hugging Face's datasets, on disk or on the hub: `datasets:path=user/name`."""

from configs import image_folder


def get_config(argument: str = ""):
    config = image_folder.get_config(argument)
    config.data.name = "datasets"
    return config
