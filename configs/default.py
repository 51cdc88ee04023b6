"""Every field of a run, born here with its default; other configs only assign."""

from ml_collections import ConfigDict

BOOLS = {"1": True, "true": True, "0": False, "false": False}


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0  # of parameters, batches, noise and drawn data
    # infonce | cross_entropy | sigmoid | triplet | pcmepp | conjunction | deterministic | vacsr | propensity
    config.method = "vacsr"

    config.model = ConfigDict()
    config.model.clip = "tiny"  # a preset of models/clip_config.py, for training from scratch
    config.model.pretrained = ""  # or a Hugging Face CLIP, folder or hub name, to start from
    config.model.preprocess = "clip"  # clip: centre square, the tower's pixel statistics | pcmepp: squashed, ImageNet's
    config.model.pooling = "clip"  # clip: the towers' own | gpo: every token projected, then GPO
    config.model.embedding_dim = 0  # of "gpo"; 0: the preset's
    config.model.dtype = "float32"  # of compute: float32 | bfloat16; parameters are float32
    config.model.vocab_size = 1024  # of the tokenizer trained on the captions; unused with `pretrained`
    config.model.image_size = 0  # pixels; 0: the preset's. Unused with `pretrained`
    config.model.context_length = 0  # tokens; 0: the preset's. Unused with `pretrained`

    config.adapter = ConfigDict()
    config.adapter.width = 0  # hidden units; 0: the embedding's dimension
    config.adapter.components = 2  # K of the mixture
    config.adapter.decoder_width = 0  # 0: linear decoder; else units of its one hidden layer
    config.adapter.embeddings = "unit"  # unit: sqrt(d) x / |x|; raw: as the towers give them
    config.adapter.sigmoid = True  # the variance loss sees sigmoid(log var); False: the paper's ablation
    config.adapter.temperature = 1.0  # of the Gumbel-softmax
    config.adapter.hard_gumbel = False  # straight-through one-hot component weights
    config.adapter.base_rate_bias = True  # the first logit is the base rate of positives; False: 0

    config.cosine = ConfigDict()  # of the methods infonce, sigmoid and conjunction
    config.cosine.scale = 0.0  # at the start; 0: the pretrained CLIP's own, or 10
    config.cosine.learn_scale = True  # False: scale and bias stay (an ablation of the paper)

    config.conjunction = ConfigDict()  # see vacsr_jax/models/conjunction.py
    config.conjunction.claims = 4  # equal parts of an embedding that must all agree

    config.triplet = ConfigDict()  # VSE-infinity's
    config.triplet.margin = 0.2
    config.triplet.all_negatives_steps = 300  # first steps that sum over all negatives; then the hardest. 0 collapses

    config.pcmepp = ConfigDict()
    config.pcmepp.pseudo_positives = 0.1  # weight of the loss whose labels take in pairs scored above the true one
    config.pcmepp.vib = 1e-4  # weight of KL[N(mu, sigma^2) || N(0, I)], mean over dimensions
    config.pcmepp.variance = 0.1  # of an item at the start, summed over dimensions

    config.propensity = ConfigDict()  # of the method of this name; see vacsr_jax/models/propensity.py
    config.propensity.match = "cosine"  # the match logit: cosine | conjunction | deterministic | vacsr
    config.propensity.plateau = True  # log sigmoid of the match logit; False: the logit itself (an ablation)
    config.propensity.text = True  # a propensity of each text to get the label
    config.propensity.image = True  # and of each image
    config.propensity.noise_floor = True  # learn the share of wrong labels

    config.loss = ConfigDict()  # VACSR's
    config.loss.kl = 5e-4
    config.loss.recon = 1.0
    config.loss.positive = 1.0
    config.loss.negative = 1.0
    config.loss.hard_negatives = 1  # N_h of each image and of each text
    config.loss.hard = "similarity"  # hardest by similarity, or by the spread "loss" itself
    config.loss.reduction = "row"  # of the reconstruction: row: sum / batch; mean: over all pairs

    config.data = ConfigDict()
    config.data.name = "scenes"  # scenes | image_folder | captions | classification
    config.data.positives = "image"  # pairs that share an image; diagonal: only the pairs as drawn
    config.data.noise = 0.0  # fraction of training captions (or images) that are permuted
    config.data.noise_protocol = "caption"  # caption (as NCR) | image (as DECL) | pcmepp
    config.data.noise_file = ""  # or a .npy index: the image of each training caption, as NCR and BiCro publish
    config.data.workers = 0  # loader processes; 0: threads
    # scenes
    config.data.train_size = 12_000
    config.data.validation_size = 300  # of captions too: the first so many validation images; 0: all
    config.data.test_size = 500
    config.data.facts = (0.25, 0.40, 0.35)  # odds of 1, 2, 3 facts a caption: the dial of false negatives
    config.data.held_out = False  # train without the held-out colour x shape combinations
    # image_folder
    config.data.path = ""  # one folder, or several with commas between
    config.data.on_error = "raise"  # raise | skip (and count)
    # captions: COCO, Flickr30k, Flickr8k; data.path is their folder
    config.data.dataset = ""  # coco | flickr30k | flickr8k, with its published counts; "": a part, or data of one's own
    config.data.form = "karpathy"  # karpathy: dataset_*.json and images | annotations: COCO's own | tfds: array_record
    config.data.captions_per_image = 5  # the first so many of each image; 0: all
    config.data.ground_truth = ""  # folder of COCO's, CxC's and ECCV Caption's ground truth, for the test split
    # classification: every image against a text for each class; data.path holds the data sets' folders, and
    # data.dataset names a benchmark (vacsr data check classification) or a folder of one's own
    config.data.subset = "all"  # classes to train on: all | base | new
    config.data.shots = 16  # training images of each class; 0: all of them
    config.data.template = "single"  # single: "a photo of a {}." | per-dataset: CoOp's | a text with {}
    config.data.tests = ("test_base", "test_new")  # what is evaluated at the end: splits, or dataset/split
    config.data.tfds = ""  # TFDS's data_dir, to read images from there instead of from folders

    config.optim = ConfigDict()
    config.optim.name = "adamw"  # adamw | adamp
    config.optim.lr = 1e-3
    config.optim.warmup_steps = 300  # 50 cost VACSR a fifth of its mAP@R on scenes
    config.optim.schedule = "cosine"  # after the warm-up: cosine to 0 | step: to a tenth
    config.optim.step_at = 0.6  # fraction of the run after which schedule "step" falls
    config.optim.weight_decay = 0.01
    config.optim.decayed = "matrices"  # matrices | all: vectors too, but not single numbers
    config.optim.clip_norm = 1.0
    config.optim.image_lr = 1.0  # the image tower's learning rate over lr; heads and pair model have lr
    config.optim.text_lr = 1.0
    config.optim.layer_decay = 1.0  # block k of a tower of n: times layer_decay^(n - k)
    config.optim.frozen = ()  # patterns of parameter paths, such as "towers/text/*"
    config.optim.image_blocks = -1  # n: of the image tower only the first n blocks learn; -1: all of it
    config.optim.text_blocks = -1
    config.optim.image_frozen_steps = 0  # steps during which the image tower does not learn

    config.optim.ramp_steps = 0  # steps over which the loss then grows from 0
    config.optim.average_from = 0  # step from which parameters are averaged, for validation and result; 0: never
    config.optim.average_every = 1  # steps between the averaged ones

    config.augment = ConfigDict()  # of training; all of it a function of seed and step
    config.augment.images = "none"  # none | clip: a random square | pcmepp, area: random parts, mirrored
    config.augment.tokens = 0.0  # probability that a caption's token is hidden, replaced or dropped
    config.augment.image_tokens = 0.0  # size augmentation of "gpo": up to this share of an image's tokens is dropped
    config.augment.mix = 0.0  # probability that an image is mixed with another (mixup or CutMix)
    config.augment.label_smoothing = 0.0

    config.train = ConfigDict()
    config.train.steps = 1500  # batches
    config.train.epochs = 0  # passes over the training images, instead of steps; 0: steps
    config.train.batch_size = 64
    config.train.tile_pairs = 512  # pairs worked on at once: sets the memory, and on a CPU fits the cache (1.7x)
    config.train.text_chunk = 128  # class texts encoded at once; sets the memory with many classes
    config.train.log_every = 50
    config.train.shard_params = False  # split parameters over devices instead of copying them

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 300  # steps; each also evaluates on the validation split
    return config.lock()


def parse(argument: str, **defaults):
    """`noise=0.5,path=a,b`: `defaults` with values of the same types; a lone word belongs to the value before it."""
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
