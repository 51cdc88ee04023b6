"""Every field of a run, with its default. Fields are defined here; other configs only assign them."""

from ml_collections import ConfigDict

BOOLS = {"1": True, "true": True, "0": False, "false": False}


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0  # of the initial parameters, the batches, the noise and drawn data
    # infonce | cross_entropy | sigmoid | triplet | pcmepp | conjunction | tokens | deterministic | vacsr | propensity,
    # or my_package.my_module:MyMethod (experiments/extending)
    config.method = "vacsr"

    config.model = ConfigDict()
    config.model.towers = "tiny"  # a preset of vacsr_jax/towers/presets.py, for training from scratch
    config.model.pretrained = ""  # start from this instead: a CLIP, SigLIP or OpenCLIP (folder or hub name), a workdir
    # or an export
    config.model.parts = "towers"  # what to take from `pretrained`. towers | all: the pair model too
    config.model.adapter = ""  # start the pair model from this run on these towers' embeddings (configs/embeddings.py)
    config.model.preprocess = "clip"  # clip: centre square, the tower's pixel statistics | pcmepp: squashed, ImageNet's
    config.model.pooling = "clip"  # clip: the towers' own | gpo: every token projected, then GPO
    config.model.embedding_dim = 0  # with pooling gpo; 0: the towers' own
    config.model.dtype = "float32"  # of computation: float32 | bfloat16; parameters are always float32
    config.model.image_projection = "none"  # of image embeddings, with data.name embeddings: none | linear | residual
    config.model.text_projection = "none"  # the same of text embeddings
    config.model.vocab_size = 1024  # of the tokenizer that is trained on the captions; unused with `pretrained`
    config.model.image_size = 0  # pixels; 0: as the preset or `pretrained`, whose positions are resampled otherwise
    config.model.context_length = 0  # tokens; 0: the preset's. Unused with `pretrained`

    config.adapter = ConfigDict()  # of the methods vacsr and deterministic
    config.adapter.width = 0  # hidden units; 0: the embedding's dimension
    config.adapter.components = 2  # K of the mixture
    config.adapter.decoder_width = 0  # 0: linear decoder; else the units of its hidden layer
    config.adapter.embeddings = "unit"  # unit: sqrt(d) x / |x|; raw: as the towers give them
    config.adapter.sigmoid = True  # the variance loss sees sigmoid(log var); False: the paper's ablation
    config.adapter.bounded = False  # sigma^2 is u = sigmoid(log var), at most 1; False: u's odds, u / (1 - u)
    config.adapter.hard_gumbel = False  # one-hot component weights in the forward pass (straight-through gradient)
    config.adapter.residual = False  # logit = scale cos + bias + m(z), where m is 0 at the start; False: m(z) alone
    config.adapter.base_rate_bias = True  # the logit starts at the base rate of positives; False: at 0 (all methods)

    config.cosine = ConfigDict()  # of the methods infonce, sigmoid and conjunction
    config.cosine.scale = 0.0  # at the start; 0: the pretrained CLIP's own, or 10 without one
    config.cosine.learn_scale = True  # False: scale and bias stay as they are (an ablation of the paper)

    config.conjunction = ConfigDict()  # see vacsr_jax/pair/conjunction.py
    config.conjunction.claims = 4  # equal parts of an embedding, all of which must agree

    config.tokens = ConfigDict()  # see vacsr_jax/pair/tokens.py
    config.tokens.dim = 32  # of the vectors of places and of text tokens
    config.tokens.places = "cells"  # whole: the pooled image | cells: and its patches | pairs: and pairs of patches
    config.tokens.places_at_most = 64  # more patches than this are averaged over a coarser grid
    config.tokens.scale = 10.0  # of cosines, at the start
    config.tokens.bias = -3.0  # of a token's log odds, at the start
    config.tokens.token_bias = True  # each token has its own bias; False: all share one
    config.tokens.gate = True  # each token has a weight from 0 to 1; False: 1

    config.triplet = ConfigDict()  # VSE-infinity's loss
    config.triplet.margin = 0.2  # between cosines
    config.triplet.all_negatives_steps = 300  # first steps that sum over all negatives; then the hardest (0 collapses)

    config.pcmepp = ConfigDict()  # PCME++
    config.pcmepp.pseudo_positives = 0.1  # weight of the loss that counts pairs scored above the true one as positive
    config.pcmepp.vib = 1e-4  # weight of KL[N(mu, sigma^2) || N(0, I)], mean over dimensions
    config.pcmepp.variance = 0.1  # of an item at the start, summed over dimensions

    config.propensity = ConfigDict()  # see vacsr_jax/pair/propensity.py
    # cosine | conjunction | tokens | deterministic | vacsr, or my_package.my_module:Name
    config.propensity.match = "cosine"
    config.propensity.plateau = True  # log sigmoid of the match logit; False: the logit itself (an ablation)
    config.propensity.text = True  # learn how likely a match of each text is to get the label
    config.propensity.image = True  # the same of each image
    config.propensity.unit = False  # propensities see an embedding's direction alone; False: its length too
    config.propensity.head_width = 0  # hidden units of a propensity; 0: the embedding's dimension
    config.propensity.noise_floor = True  # learn the share of wrong labels

    config.loss = ConfigDict()  # VACSR's loss: the weights of its terms
    config.loss.kl = 5e-4  # of the KL bound
    config.loss.recon = 1.0  # of the reconstruction of the labels
    config.loss.positive = 1.0  # of the variance loss of positives
    config.loss.negative = 1.0  # of the variance loss of hard negatives
    config.loss.hard_negatives = 1  # N_h, of each image and of each text
    config.loss.hard = "similarity"  # the hardest by: similarity | loss (the variance loss itself)
    config.loss.reduction = "row"  # of the reconstruction. row: sum over pairs / batch size | mean: over all pairs

    config.data = ConfigDict()
    # scenes | scene_web | image_folder | webdataset | csv | datasets | captions | embeddings | classification
    config.data.name = "scenes"
    config.data.positives = "image"  # image: pairs that share an image | diagonal: only the pairs as drawn
    config.data.noise = 0.0  # share of training captions (or images) that are permuted
    config.data.noise_protocol = "caption"  # caption (as NCR) | image (as DECL) | pcmepp
    config.data.noise_file = ""  # a .npy file instead: the image of each training caption, as NCR and BiCro publish
    config.data.extra_positives = ""  # a CSV of pairs to add: image_index, caption_index (of the training split)
    config.data.dropped_labels = ""  # a CSV of labels to leave out, in the same form (`vacsr audit` writes both)
    config.data.workers = 0  # loader processes; 0: threads
    # scenes
    config.data.train_size = 12_000  # images; each has five captions
    config.data.validation_size = 300  # images. Of captions and embeddings: the first of the validation split; 0: all
    config.data.test_size = 500  # images. Of embeddings: the first of the test split; 0: all
    config.data.facts = (0.25, 0.40, 0.35)  # odds of 1, 2, 3 facts in a caption; shorter ones mean more false negatives
    config.data.jitter = 0.5  # pixels between an object and the middle of its cell, at most; over 1, objects leave it
    config.data.absent = 0.0  # share of facts that say what a scene lacks: "no red circle"
    config.data.held_out = False  # train without some combinations of colour and shape
    # people's own: image_folder, webdataset, csv, datasets (vacsr_jax/data/README.md); embeddings
    config.data.path = ""  # a folder, a pattern of shards, a table, a repository, a file; several folders: a,b
    config.data.on_error = "raise"  # at a bad record: raise | skip (and count it)
    config.data.image_key = ""  # the column of the pictures, in csv and datasets; "": a usual name
    config.data.caption_key = ""  # the column or JSON field of the captions; "": a usual name
    config.data.separator = ""  # of csv; "": a tab if the first line has one, else a comma
    # captions: COCO, Flickr30k, Flickr8k or your own in their form; data.path is the folder
    config.data.dataset = ""  # coco | flickr30k | flickr8k: counts are checked; "": a part of these, or your own
    config.data.form = "karpathy"  # karpathy: dataset_*.json and images | annotations: COCO's own | tfds: array_record
    config.data.captions_per_image = 5  # the first ones of each image; 0: all
    config.data.ground_truth = ""  # folder of COCO's, CxC's and ECCV Caption's ground truth, for the test split
    # classification: every image against a text for each class. data.path holds the data sets' folders, and
    # data.dataset names a benchmark (see `vacsr data check classification`) or a folder of your own.
    config.data.subset = "all"  # classes to train on: all | base | new
    config.data.shots = 16  # training images of each class; 0: all of them
    config.data.template = "single"  # single: "a photo of a {}." | per-dataset: CoOp's | a text with {}
    config.data.tests = ("test_base", "test_new")  # evaluated at the end: splits, or dataset/split
    config.data.tfds = ""  # TFDS's data_dir: images are read there instead of in folders

    config.optim = ConfigDict()
    config.optim.name = "adamw"  # adamw | adamp
    config.optim.lr = 1e-3  # the highest learning rate
    config.optim.warmup_steps = 300  # with 50, VACSR loses a fifth of its mAP@R on scenes
    config.optim.schedule = "cosine"  # after the warm-up. cosine: to 0 | step: to a tenth
    config.optim.step_at = 0.6  # share of the run after which the schedule "step" falls
    config.optim.extension_lr = 0.0  # the highest rate of an extension, which has a warm-up and a schedule of its own
    config.optim.weight_decay = 0.01  # decoupled, as in AdamW
    config.optim.decayed = "matrices"  # what decays. matrices | all: vectors too, but not single numbers
    config.optim.clip_norm = 1.0  # a longer gradient (norm over all parameters) is shortened to this
    config.optim.image_lr = 1.0  # the image tower's learning rate, as a multiple of lr; heads and pair model have lr
    config.optim.text_lr = 1.0  # the same of the text tower
    config.optim.layer_decay = 1.0  # multiplies the rate of block k = 0 .. n - 1 of a tower by layer_decay^(n - k)
    config.optim.lora = 0  # rank of adapters on the towers' linear layers, in whose place the towers learn; 0: none
    config.optim.lora_alpha = 16.0  # the adapters' product is multiplied by this over the rank
    config.optim.lora_on = ("attention/query", "attention/value")  # which layers: patterns for the end of their path
    config.optim.frozen = ()  # patterns of parameters that do not learn, such as "towers/text/*"
    config.optim.image_blocks = -1  # n: only the first n blocks of the image tower learn; -1: all of it
    config.optim.text_blocks = -1  # the same of the text tower
    config.optim.image_frozen_steps = 0  # steps during which the image tower does not learn
    config.optim.ramp_steps = 0  # steps after that, over which the loss grows from 0 to its size
    config.optim.average_from = 0  # step from which parameters are averaged, for validation and the result; 0: never
    config.optim.average_every = 1  # steps between two that enter the average

    config.augment = ConfigDict()  # of training data; a function of seed and step
    config.augment.images = "none"  # none | clip: a random square | pcmepp, area: random parts, mirrored at random
    config.augment.tokens = 0.0  # probability that a caption's token is hidden, replaced or dropped
    config.augment.image_tokens = 0.0  # with pooling gpo: up to this share of an image's tokens is dropped
    config.augment.mix = 0.0  # probability that an image is mixed with another (mixup or CutMix)
    config.augment.label_smoothing = 0.0  # labels are this and 1 minus this, in place of 0 and 1

    config.train = ConfigDict()
    config.train.steps = 1500  # number of batches
    config.train.extended_from = 0  # steps of the finished run in the workdir that this run extends to train.steps
    config.train.epochs = 0  # passes over the training captions (of classes: images) in place of steps; 0: use steps
    config.train.batch_size = 64  # of all devices and processes together
    config.train.tile_pairs = 512  # pairs worked on at once: sets the memory; on a CPU it fits the cache (1.7x faster)
    config.train.text_chunk = 128  # class texts encoded at once; sets the memory with many classes
    config.train.patience = 0  # checkpoints without a better validation rsum before training stops; 0: never stops
    config.train.log_every = 50  # steps between two records of the losses
    config.train.log_to = ""  # also send the records to some of tensorboard, wandb, trackio, separated by commas
    config.train.shard_params = False  # split parameters over devices instead of copying them

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 300  # steps; each checkpoint is evaluated on the validation split
    return config.lock()


def parse(argument: str, **defaults):
    """Values of `name=value,...`, with the types of `defaults`; a word without `=` belongs to the value before it."""
    items: list[list[str]] = []
    for item in filter(None, argument.split(",")):
        name, equals, value = item.partition("=")
        if equals:
            items.append([name, value])
        elif items:
            items[-1][1] += f",{item}"
        else:
            raise ValueError(f"config argument {item!r}: expected name=value with a name of {', '.join(defaults)}")
    values = dict(defaults)
    for name, value in items:
        if name not in defaults:
            raise ValueError(f"config argument {name!r}: expected one of {', '.join(defaults)}")
        kind = type(defaults[name])
        try:
            values[name] = BOOLS[value.lower()] if kind is bool else kind(value)
        except (ValueError, KeyError):
            raise ValueError(f"config argument {name}={value}: expected a value of type {kind.__name__}") from None
    return values
