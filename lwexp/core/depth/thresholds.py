"""Every threshold of the depth rules: value, reason, and the networks that come out wrong without it.

The last column was measured on 229 networks (182 of timm, 35 of torchvision, 12 of the tests), by execution, with one
threshold changed ("never": the rule switched off); "8 -> 32" are numbers of depths. tests/core/depth/test_thresholds.py
repeats one network for each.

Structure: which modules are blocks, lists of blocks, and stages (`structure.py`, `units.py`)

name                value  why                                        without it
------------------  -----  -----------------------------------------  ------------------------------------------------
COMPOSITE_MATRICES  2      A block consists of several layers; one    At 1, 132 split their stems and down-sampling:
                           layer is a layer of the block around it.   convnext_atto 14 -> 17. At 3, 32 lose blocks of
                                                                      two layers: resnet18 10 -> 8, repvgg_b0 29 -> 5.
REPEATED_CHILDREN   3      A plain module with three composite        At 2, ghostnet opens its blocks: 19 -> 42.
                           children of one class lists its blocks as  Never, regnety_008 loses its blocks (s1.b1,
                           attributes; two are branches or a pair.    s1.b2, ...): 16 -> 6, and inception_v3 13 -> 17.
IDENTICAL_SIBLINGS  3      Children of equal class and shapes are     Never, blocks made of lists are opened:
                           blocks, whatever lists they hold; stages   efficientvit_m0 8 -> 32.
                           differ in width.
LIST_WEIGHT_SHARE   0.5    The blocks hold most weights of their      At 0.9, lists with other heavy layers are
                           list.                                      missed: s3d 12 -> 5 (4 networks). At 0, none.
LIST_CHILD_SHARE    0.5    At least half of the children of a list    At 0, a block with one composite part, such as
                           are blocks; norms and single layers may    squeeze-and-excitation, is taken for a list:
                           stand between them.                        mobilenet_v3_small of torchvision 13 -> 6. At 1,
                                                                      any layer between blocks hides them: starnet_s1
                                                                      17 -> 6 (28 networks).
STAGE_WEIGHT_SHARE  0.5    A stage consists mostly of block lists     At 0.1, blocks that contain a short list are
                           and is opened; a block with a short list   opened: hgnetv2_b2 8 -> 20. At 0.95, stages with
                           inside stays whole.                        other layers (down-sampling) stay one unit:
                                                                      cs3sedarknet_x 26 -> 6 (12 networks).
BULK_WEIGHT_SHARE   0.5    Most of the weights are no single block:   At 1, a language model whose head outweighs its
                           a module around lists of blocks is         blocks, inside another network, is one unit, and
                           opened, without blocks any, and networks   two towers are one depth: two_towers of the tests
                           of one build side by side (two towers).    3 -> 1. At 0.1, none.

Flow: what the data pass (`flow.py`, `placing.py`)

name                value  why                                        without it
------------------  -----  -----------------------------------------  ------------------------------------------------
FEW_LEVELS          3      Up to three levels of blocks may be        Never flat, plain networks are one block: vgg16
                           chance; then the weights decide whether    16 -> 2, alexnet 8 -> 2. At 10, networks of a
                           the network is flat (every layer a         few real stages are flat: selecsls42 8 -> 12.
                           block).
FEW_BLOCK_SHARE     0.5    A flat network has at most half of its     Never, as for FEW_LEVELS. At 0.99, networks of a
                           weights or of its layers (without          few large blocks are flat: crossvit_18_240 5 -> 6.
                           embeddings and heads) in blocks.
PARALLEL_SHARE      0.5    A list inside a block whose elements       At 0, cells with branches are opened:
                           start at half as many levels as it has     pnasnet5large 15 -> 24. At 1, every list of
                           elements is a set of branches.             blocks counts as parallel: convnext_atto 14 -> 6
                                                                      (122 networks).
STEM_BLOCK_SHARE    0.5    A stem has a minority of the blocks.       At 0, blocks in stems get depths:
                                                                      efficientvit_b3 29 -> 30, vitamin_small_224 16
                                                                      -> 22. At 1, none.
STEM_WEIGHT_RATIO   20     A stem holds less than 1/20 of the         At 1, a hybrid's convolutional trunk is its
                           weights.                                   stem: vit_base_r26_s32_224 22 -> 14. Never, as
                                                                      for STEM_BLOCK_SHARE at 0.
POOLING_RATIO       4      Data shrunk to less than 1/4 of the last   At 1, layers of the last block in hrnet_w18 join
                           block's output have been pooled: what      the head. Never, `fc_norm` (beit_base, 25
                           follows belongs to the head.               networks) and `conv_head` (mobilenetv3) join the
                                                                      last block.
SHRINKING_RATIO     2      A layer that ends one of several stages    Never, the down-sampling of transformers' Swin
                           and halves the data is down-sampling for   joins the block before it.
                           the next one.

Confidence (`confidence.py`)

name                value  why                                        without it
------------------  -----  -----------------------------------------  ------------------------------------------------
UNUSED_SHARE        0.1    Where more of the weights are unused, the  At 1, a text encoder without text beside an image
                           plan says that it is unsure, and other     encoder goes unsaid: open_clip's CLIP. At 0, any
                           guessed inputs are tried.                  unused layer raises a doubt.

Limits of effort (`execution.py`, `twin.py`)

name                value        why                                      without it
------------------  -----------  ---------------------------------------  --------------------------------------------
TIMEOUT             20.0         Seconds for all forward passes of a plan    Slow networks that no guessed input fits
                                 (`grouping.timeout`).                    take minutes: PolyNet 145 s.
QUICK_INPUTS        6            A mere note (on the order of             Plans by per_parameter and top_module take
                                 registration) is worth few attempts.     seconds for networks that no guessed input
                                                                          fits.
REAL_PASS_WEIGHTS   100,000,000  Larger networks take too much memory     A forward pass with real numbers copies all
                                 and time for a pass with real numbers.   weights: 28 GB for 7 billion in float32.
KEPT_BUFFER_VALUES  65,536       Smaller buffers keep their values,       Networks that read a buffer in Python need a
                                 since control flow may depend on them.   pass with real numbers.

Guessed inputs (`inputs.py`): batches of BATCH, sequences of SEQUENCE steps; IMAGE_SIDES, VIDEO_SIDES and SIGNAL_LENGTHS
in order of trial, for the first IMAGE_CHANNELS, VIDEO_CHANNELS and SIGNAL_CHANNELS different numbers of input channels
and the first FEATURE_WIDTHS different numbers of input features; a square number of features with a side above
SQUARE_SIDE may be a flattened image.
"""

from __future__ import annotations

COMPOSITE_MATRICES = 2
REPEATED_CHILDREN = 3
IDENTICAL_SIBLINGS = 3
LIST_WEIGHT_SHARE = 0.5
LIST_CHILD_SHARE = 0.5
STAGE_WEIGHT_SHARE = 0.5
BULK_WEIGHT_SHARE = 0.5

FEW_LEVELS = 3
FEW_BLOCK_SHARE = 0.5
PARALLEL_SHARE = 0.5
STEM_BLOCK_SHARE = 0.5
STEM_WEIGHT_RATIO = 20
POOLING_RATIO = 4
SHRINKING_RATIO = 2

UNUSED_SHARE = 0.1

TIMEOUT = 20.0
QUICK_INPUTS = 6
REAL_PASS_WEIGHTS = 100_000_000
KEPT_BUFFER_VALUES = 65_536

BATCH = 2
SEQUENCE = 16
IMAGE_SIDES = (224, 64, 32, 128, 256, 384, 28, 84, 299, 331)
IMAGE_CHANNELS = 4
VIDEO_SIDES = (64, 112, 224)
VIDEO_CHANNELS = 2
SIGNAL_LENGTHS = (64, 1024, 16_000)
SIGNAL_CHANNELS = 3
FEATURE_WIDTHS = 4
SQUARE_SIDE = 4
