"""Every configuration key with its default and one line of explanation; ranges are in config/checks.py.

Keys in lower case beside a NAME are arguments of the named class or function, checked against its signature.
None means: taken from the data set, the network or the task.
"""

from config.node import CfgNode


def default_config() -> CfgNode:
    """A new tree of defaults: a small network on the bundled digits."""
    c = CfgNode()
    # Random seed of the sample order, augmentation and initial weights.
    c.SEED = 0
    # Folder of all runs, relative to the working directory.
    c.OUTPUT_DIR = "runs"

    # Folder of this experiment under OUTPUT_DIR; empty: the name of the configuration file.
    c.EXPERIMENT = CfgNode({"NAME": ""})
    # classification, multilabel, regression, or your own in engine/tasks/; empty: derived from the loss and the data.
    c.TASK = CfgNode({"NAME": ""})
    # A loss of modeling/; empty: the task's own (cross_entropy, bce, mse).
    c.LOSS = CfgNode({"NAME": ""})

    c.MODEL = CfgNode()
    # A network of modeling/, or torchvision/NAME or timm/NAME for any classifier of these libraries.
    c.MODEL.NAME = "resnet9"
    # Start from the library's ImageNet weights; a head with another number of classes is initialised randomly.
    c.MODEL.PRETRAINED = False
    # Start from the weights in this file: a checkpoint, a bare state dict, or safetensors; empty: none.
    c.MODEL.WEIGHTS = ""
    # Minimum fraction of the network's tensors that WEIGHTS must provide, to detect an unrelated file.
    c.MODEL.WEIGHTS_MIN_MATCH = 0.5
    c.MODEL.HEAD = CfgNode()
    # Width of a hidden layer in the head; 0: a single linear layer.
    c.MODEL.HEAD.HIDDEN = 0
    # Dropout probability before the last linear layer.
    c.MODEL.HEAD.DROPOUT = 0.0
    # Number of classes, to be checked against the data set; 0: taken from the data set.
    c.MODEL.NUM_CLASSES = 0
    # Compile the network with torch.compile: slow to start, then faster on most GPUs.
    c.MODEL.COMPILE = False
    # Batch norm over the images of all processes, on GPUs.
    c.MODEL.SYNC_BN = False
    # Device: cpu, cuda, cuda:1, mps, or auto: the fastest available.
    c.MODEL.DEVICE = "auto"

    c.INPUT = CfgNode()
    # Image size [height, width] in pixels; None: the data set's, else the network's.
    c.INPUT.SIZE = None
    # Number of image channels: 1 for grayscale, 3 for RGB, or any other; 0: the data set's.
    c.INPUT.CHANNELS = 0
    # Mean of each channel, for pixels in 0..1; None: the data set's, else the network's.
    c.INPUT.MEAN = None
    # Standard deviation of each channel, for pixels in 0..1; None: the data set's, else the network's.
    c.INPUT.STD = None
    # Training transforms, in order: [{RandomCrop: {padding: 2}}, HFlip]; None: the data set's.
    c.INPUT.TRAIN_TRANSFORMS = None
    # Transforms that mix a batch, one chosen at random each step: [{MixUp: {alpha: 0.2}}, {CutMix: {alpha: 1.0}}].
    c.INPUT.BATCH_TRANSFORMS = []
    # First epoch, counted from 0, without BATCH_TRANSFORMS; 0: never switched off.
    c.INPUT.MIXUP_OFF_EPOCH = 0
    # Transforms for validation, test and inference, in order; None: the data set's.
    c.INPUT.TEST_TRANSFORMS = None

    c.DATASETS = CfgNode()
    # A data set of data/datasets/.
    c.DATASETS.NAME = "digits"
    # Folder that contains the data sets, relative to the working directory.
    c.DATASETS.ROOT = "datasets"
    # Fraction of the training set held out for validation if the data set has no validation split; 0: no validation.
    c.DATASETS.VAL_RATIO = 0.1
    # Cross-validation [k, n]: validate on fold k, from 1, of n folds of the training set; replaces VAL_RATIO.
    c.DATASETS.FOLD = None
    # Random seed of what VAL_RATIO, FOLD and TRAIN_SUBSET choose; runs that differ in SEED share a validation set.
    c.DATASETS.SPLIT_SEED = 0
    # Images held out together: a column of the CSV file, a pattern on names ((?P<group>patient\d+)_), or content.
    c.DATASETS.GROUP = ""
    # Train on a class-balanced subset of this many images; 0: all.
    c.DATASETS.TRAIN_SUBSET = 0
    # Sampling of an epoch: shuffle, balanced (all classes equally often), weighted (by the data set's weights).
    c.DATASETS.SAMPLER = "shuffle"
    # On a missing or unreadable image: raise, or skip it (replaced by the next image in training).
    c.DATASETS.ON_ERROR = "raise"
    # Maximum fraction of a split that may be skipped.
    c.DATASETS.MAX_SKIPPED = 0.01
    # Maximum number of pixels of an image; larger ones count as unreadable (decompression bombs).
    c.DATASETS.MAX_PIXELS = 178956970
    # A file of tools/pack_dataset.py, relative to the working directory, to read the images from; empty: their files.
    c.DATASETS.PACKED = ""

    c.DATALOADER = CfgNode()
    # Number of workers that read and transform images ahead of the network; auto: as many as there are CPUs to use.
    c.DATALOADER.NUM_WORKERS = "auto"
    # Batches that are ready in advance, in addition to the one that each worker reads.
    c.DATALOADER.PREFETCH = 2
    # threads, inline (one thread), processes by fork, forkserver or spawn; auto: threads if all is thread_safe.
    c.DATALOADER.WORKER_KIND = "auto"
    # Images that have one size before the first random transform are kept in memory if they take at most so many MiB.
    c.DATALOADER.RESIDENT_MIB = 512

    c.SOLVER = CfgNode()
    # Number of training epochs.
    c.SOLVER.MAX_EPOCHS = 15
    # Images per optimizer step, over all processes.
    c.SOLVER.BATCH_SIZE = 64
    # Peak learning rate, which the schedule scales; 0: 0.001 * sqrt(BATCH_SIZE / 32), for AdamW alone.
    c.SOLVER.BASE_LR = 0.0
    # Weight decay of all parameters except normalisation layers and biases.
    c.SOLVER.WEIGHT_DECAY = 0.05
    # Learning-rate multiplier of the head, the last linear layers.
    c.SOLVER.HEAD_LR_MULT = 1.0
    # Learning-rate multiplier per layer of distance from the head (layer-wise decay); 1: none.
    c.SOLVER.LAYER_DECAY = 1.0
    # Number of epochs at the start in which only the head is trained.
    c.SOLVER.FREEZE_EPOCHS = 0
    # Name patterns of parameters that are never trained: [conv1.*, layer1.*].
    c.SOLVER.FREEZE = []
    # Mixed precision: off (float32), bf16, fp16 (GPU only), or auto: the fastest on the device.
    c.SOLVER.AMP = "auto"
    # Allow TF32 in float32 matrix products and convolutions on GPUs that have it: faster, less precise.
    c.SOLVER.TF32 = False
    # Deterministic algorithms: bitwise identical runs on the same machine; slower on a GPU.
    c.SOLVER.DETERMINISTIC = False
    # Micro-batches that each step's BATCH_SIZE images are split into, to save memory (gradient accumulation).
    c.SOLVER.MICRO_BATCHES = 1
    # A training step of engine/steps/.
    c.SOLVER.STEP = CfgNode({"NAME": "standard"})
    c.SOLVER.CLIP = CfgNode()
    # Gradient clipping: maximum norm of all gradients; 0 disables it.
    c.SOLVER.CLIP.NORM = 0.0
    # Gradient clipping: maximum absolute value of each gradient; 0 disables it.
    c.SOLVER.CLIP.VALUE = 0.0
    # Decay of an exponential moving average of the weights, such as 0.9998, used for evaluation; 0: no average.
    c.SOLVER.EMA = 0.0
    # A class of torch.optim, or timm/NAME: timm/lion, timm/lookahead_radam; lr and weight_decay are keys of SOLVER.
    c.SOLVER.OPTIMIZER = CfgNode({"NAME": "AdamW"})
    c.SOLVER.SCHEDULER = CfgNode()
    # A schedule of solver/lr_scheduler.py: constant, step, multi_step, cosine, one_cycle, warmup_stable_decay, ...
    c.SOLVER.SCHEDULER.NAME = "one_cycle"
    # Length of a linear warm-up before the schedule, in epochs (may be fractional).
    c.SOLVER.SCHEDULER.WARMUP_EPOCHS = 0.0

    c.TEST = CfgNode()
    # Images per batch in validation, test and inference, per process.
    c.TEST.BATCH_SIZE = 256
    # Test-time augmentation: average the outputs for each image and its mirror image.
    c.TEST.TTA_FLIP = False
    # Write an HTML report on the best weights at the end of training.
    c.TEST.REPORT = True
    # Metrics of engine/metrics/ computed on validation and test sets beside the loss; None: the task's.
    c.TEST.METRICS = None
    # Validation metric that selects the best weights, such as max top1; ties go to the lower loss; empty: the task's.
    c.TEST.MONITOR = ""

    c.CHECKPOINT = CfgNode()
    # Interval in steps of additional checkpoints within an epoch; 0: only at the end of each epoch.
    c.CHECKPOINT.EVERY_STEPS = 0
    # Interval in epochs of permanent checkpoints; 0: none.
    c.CHECKPOINT.KEEP_EVERY_EPOCHS = 0

    # Additional hooks of engine/hooks/, in order: [{EarlyStopping: {patience: 5}}].
    c.HOOKS = []

    c.LOG = CfgNode()
    # Steps between lines of the training log.
    c.LOG.PERIOD = 50
    # Minimum severity of log messages: DEBUG, INFO, WARNING, ERROR.
    c.LOG.LEVEL = "INFO"
    # Start a new log file every day instead of one per run.
    c.LOG.DAILY = False
    return c
