"""Every key of the project with its default, and a line on what it means.

Keys in capitals are the project's. Beside a NAME, keys in lower case are the arguments of the
thing that is named, checked against its signature. `None` marks a key that is worked out from
the data set or the network unless it is set. Rules for values stand in `config/checks.py`.
"""

from config.node import CfgNode


def default_config() -> CfgNode:
    """A new tree of defaults: a small network on the bundled digits."""
    c = CfgNode()

    # Seed of everything that is random: splits, order, augmentation, initial weights.
    c.SEED = 0
    # Folder of all runs, relative to the working directory.
    c.OUTPUT_DIR = "runs"

    c.EXPERIMENT = CfgNode()
    # Folder of this experiment under OUTPUT_DIR; empty: the configuration file's name.
    c.EXPERIMENT.NAME = ""

    c.MODEL = CfgNode()
    # A network of modeling/, or torchvision/NAME or timm/NAME for any classifier of these libraries.
    c.MODEL.NAME = "resnet9"
    # Start from the library's own ImageNet weights; a head for other classes starts fresh.
    c.MODEL.PRETRAINED = False
    # Start from the weights in this file: a checkpoint, a bare state dict, or safetensors; empty: none.
    c.MODEL.WEIGHTS = ""
    # Least share of the network's tensors that WEIGHTS must have, lest a foreign file pass unnoticed.
    c.MODEL.WEIGHTS_MIN_MATCH = 0.5
    c.MODEL.HEAD = CfgNode()
    # Width of a hidden layer in the head; 0: a single linear layer.
    c.MODEL.HEAD.HIDDEN = 0
    # Dropout before the last linear layer.
    c.MODEL.HEAD.DROPOUT = 0.0
    # Number of classes; 0: as many as the data set has.
    c.MODEL.NUM_CLASSES = 0
    # Compile the network with torch.compile: slow to start, then faster on most GPUs.
    c.MODEL.COMPILE = False
    # Where to run: auto, cpu, cuda, cuda:1, mps. auto takes the best there is.
    c.MODEL.DEVICE = "auto"

    c.LOSS = CfgNode()
    # A loss of modeling/.
    c.LOSS.NAME = "cross_entropy"

    c.INPUT = CfgNode()
    # [height, width] in pixels; None: the data set's own, else the network's.
    c.INPUT.SIZE = None
    # 1 for gray, 3 for RGB; 0: the data set's own.
    c.INPUT.CHANNELS = 0
    # Mean of each channel, pixels in 0..1; None: the data set's own, else the network's.
    c.INPUT.MEAN = None
    # Standard deviation of each channel, pixels in 0..1; None: as for MEAN.
    c.INPUT.STD = None
    # Transforms of training images, in order: [{RandomCrop: {padding: 2}}, HFlip]; None: the data set's own.
    c.INPUT.TRAIN_TRANSFORMS = None
    # Mixing whole batches, one drawn for each: [{MixUp: {alpha: 0.2}}, {CutMix: {alpha: 1.0}}].
    c.INPUT.BATCH_TRANSFORMS = []
    # The epoch, from 0, from which batches are no longer mixed; 0: mix to the end.
    c.INPUT.BATCH_TRANSFORMS_UNTIL = 0
    # Transforms of validation, test and inference images; None: the data set's own.
    c.INPUT.TEST_TRANSFORMS = None

    c.DATASETS = CfgNode()
    # A data set of data/datasets/.
    c.DATASETS.NAME = "digits"
    # Folder that data sets are looked for in, relative to the working directory.
    c.DATASETS.ROOT = "datasets"
    # Share of the training set held out for validation where the data set has none; 0: no validation.
    c.DATASETS.VAL_RATIO = 0.1
    # [k, n]: validate on part k, from 1, of n equal parts of the training set, in place of VAL_RATIO.
    c.DATASETS.FOLD = None
    # Train on so many images, as equally many of each class as can be; 0: all.
    c.DATASETS.TRAIN_ITEMS = 0
    # How an epoch is drawn: shuffle, balanced (each class as often), weighted (by the data set's weights).
    c.DATASETS.SAMPLER = "shuffle"
    # An image that cannot be read: raise (stop), or skip (in training another one of its class stands in).
    c.DATASETS.ON_ERROR = "raise"
    # Share of a split that may be skipped before it stops after all.
    c.DATASETS.MAX_SKIPPED = 0.01
    # An image of more pixels is broken: small files can hold pictures that fill the memory.
    c.DATASETS.MAX_PIXELS = 178956970

    c.DATALOADER = CfgNode()
    # Processes that read and transform images; 0: the main process does it.
    c.DATALOADER.NUM_WORKERS = 0
    # Batches that each worker reads ahead.
    c.DATALOADER.PREFETCH = 2
    # How workers are started: fork, forkserver, spawn; auto: Python's default.
    c.DATALOADER.WORKER_KIND = "auto"

    c.SOLVER = CfgNode()
    # Length of the training in epochs.
    c.SOLVER.MAX_EPOCHS = 15
    # Images in a step.
    c.SOLVER.BATCH_SIZE = 64
    # Peak learning rate, which the schedule scales.
    c.SOLVER.BASE_LR = 0.1
    # Weight decay of all parameters but norms and biases.
    c.SOLVER.WEIGHT_DECAY = 5.0e-4
    # Factor on the learning rate of the head, the last linear layers.
    c.SOLVER.HEAD_LR_MULT = 1.0
    # Factor on the learning rate for each layer further from the head; 1: the same for all.
    c.SOLVER.LAYER_DECAY = 1.0
    # Train the head alone for so many epochs, then everything.
    c.SOLVER.FREEZE_EPOCHS = 0
    # Parameters never to train, by name: [conv1.*, layer1.*].
    c.SOLVER.FREEZE = []
    # Arithmetic: off (float32), bf16, fp16 (GPU only), or auto: what is fast on the device.
    c.SOLVER.AMP = "auto"
    # Float32 products in TF32 on GPUs that have it: faster, with fewer digits.
    c.SOLVER.TF32 = False
    # The same bits in every run on the same machine, on a GPU too, where it is slower.
    c.SOLVER.DETERMINISTIC = False
    # Parts that a step's batch goes through the network in, to fit into memory; BATCH_SIZE stays that of the step.
    c.SOLVER.ACCUMULATE = 1
    c.SOLVER.CLIP = CfgNode()
    # Greatest norm of all gradients together; 0: any.
    c.SOLVER.CLIP.NORM = 0.0
    # Greatest absolute value of a gradient; 0: any.
    c.SOLVER.CLIP.VALUE = 0.0
    # Decay of a moving average of the weights, such as 0.9998, which is evaluated in their place; 0: none.
    c.SOLVER.EMA = 0.0
    c.SOLVER.OPTIMIZER = CfgNode()
    # A class of torch.optim, or timm/NAME: timm/lion, timm/lookahead_radam; lr and weight_decay are keys of SOLVER.
    c.SOLVER.OPTIMIZER.NAME = "SGD"
    c.SOLVER.OPTIMIZER.update({"momentum": 0.9, "nesterov": True})
    c.SOLVER.SCHEDULER = CfgNode()
    # constant, step, multi_step, exponential, linear, polynomial, cosine, cosine_restarts, one_cycle or
    # warmup_stable_decay.
    c.SOLVER.SCHEDULER.NAME = "one_cycle"
    # Linear warm-up before the schedule, in epochs, fractions allowed.
    c.SOLVER.SCHEDULER.WARMUP_EPOCHS = 0.0

    c.TEST = CfgNode()
    # Images in a batch of validation, test and inference.
    c.TEST.BATCH_SIZE = 256
    # Average the outputs of each image and its mirror image.
    c.TEST.FLIP = False
    # Write report/ when the training is done: numbers and pictures of the best weights on the validation set.
    c.TEST.REPORT = True
    # Metrics of engine/metrics/ taken on validation and test sets, beside the loss.
    c.TEST.METRICS = ["top1", "top5"]
    # The validation metric that chooses the best weights: max or min, and its name.
    c.TEST.MONITOR = "max top1"

    c.CHECKPOINT = CfgNode()
    # Also save every so many steps within an epoch; 0: at the end of each epoch only.
    c.CHECKPOINT.EVERY_STEPS = 0
    # Also keep a checkpoint for good every so many epochs; 0: none.
    c.CHECKPOINT.KEEP_EVERY = 0

    # More hooks of engine/hooks/, in order: [{EarlyStopping: {patience: 5}}].
    c.HOOKS = []

    c.LOG = CfgNode()
    # Steps between two lines of the training log.
    c.LOG.PERIOD = 20
    # Least severe message that is shown: DEBUG, INFO, WARNING, ERROR.
    c.LOG.LEVEL = "INFO"
    # Format of a line, as Python's logging has it.
    c.LOG.FORMAT = "%(asctime)s %(name)s: %(message)s"
    # Start a new log file each day, instead of one for the whole run.
    c.LOG.DAILY = False
    return c
