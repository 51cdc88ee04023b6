"""The embedded default: VACSR on drawn scenes. `scenes.py:noise=0.5,method=sigmoid` sets what people change most."""

from configs import default


def get_config(argument: str = ""):
    config = default.get_config()
    chosen = default.parse(argument, method=config.method, noise=config.data.noise, held_out=False)
    config.method = chosen["method"]
    config.data.noise = chosen["noise"]
    config.data.held_out = chosen["held_out"]
    config.train.steps = 3000  # at 1,500 the adapters are behind the cosine baselines, at 3,000 ahead
    return config
