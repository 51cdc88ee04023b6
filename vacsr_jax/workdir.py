"""The names of the files in the folder of a training run."""

CONFIG = "run_config.json"  # the resolved config
TOKENIZER = "tokenizer"  # the tokenizer's folder; an export has one too
CHECKPOINTS = "checkpoints"  # the best and the last two
NOISE = "noise.npy"  # with label noise: the image that each noisy caption was moved to
METRICS = "metrics.jsonl"  # the training curves
EVALUATION, REPORT = "evaluation.json", "report.html"
SHOTS = "shots.json"  # the training images of a few-shot run
TENSORBOARD = "tensorboard"  # with train.log_to=tensorboard: its event files
LOG_RUN = "log_run"  # with other services: the name of the run there
