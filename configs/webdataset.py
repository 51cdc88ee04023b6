"""Your own pictures in WebDataset shards: `webdataset:path=shards/{000..099}.tar`, or a folder of tar files."""

from configs import image_folder


def get_config(argument: str = ""):
    config = image_folder.get_config(argument)
    config.data.name = "webdataset"
    return config
