"""What lies in the folder of a training run, by name."""

CONFIG = "run_config.json"  # the resolved config
TOKENIZER = "tokenizer"  # the tokenizer's folder; an export has one too
CHECKPOINTS = "checkpoints"  # the best and the last two
NOISE = "noise.npy"  # which image each noisy caption stands beside, if there is noise
METRICS = "metrics.jsonl"  # the training curves
EVALUATION, REPORT = "evaluation.json", "report.html"
SHOTS = "shots.json"  # the training images of a few-shot run
