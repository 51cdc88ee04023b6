"""Your own pictures in a table of paths and captions, as open_clip takes it: `csv:path=pairs.csv`."""

from configs import image_folder


def get_config(argument: str = ""):
    config = image_folder.get_config(argument)
    config.data.name = "csv"
    return config
