"""The names that known programs give to the parts of their checkpoints.

Read in the programs themselves: E-SSL's (github.com/rdangovs/essl),
facebookresearch's SimSiam and Barlow Twins, MoCo and torchvision.
"""

# What wrappers of modules add to names: parallel, compiled, sharded and
# checkpointed ones.
TRANSPARENT = frozenset(
  ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
)

# Words that tell the networks of several encoders apart. Those of AVERAGES
# follow another encoder, and are not what was trained.
AVERAGES = frozenset(
  ("momentum", "ema", "target", "average", "swa", "key", "k")
)
SIDES = frozenset(("online", "base", "query", "q", "student", "teacher"))

# The parts of a checkpoint that have a place among the networks here.
HEADS = {
  "projector": "projector",
  "predictor": "predictor",
  "rotation_projector": "transformation_head",  # E-SSL for ImageNet
  "predictor2": "transformation_head",  # E-SSL for CIFAR-10
}
CLASSIFIERS = ("fc", "online_head", "head", "classifier")
REASONS = {
  "optimizer": "optimiser state",
  "optimizer_states": "optimiser state",
  "lr_scheduler": "optimiser state",
  "lr_schedulers": "optimiser state",
  "scaler": "optimiser state",
  "bn": "of Barlow Twins' loss, which takes each batch's own statistics",
  "queue": "queue of negatives",
  "queue_ptr": "queue of negatives",
}

# A form is known by the parts beside, or in, the encoder; the first that fits.
FORMS = (
  ("E-SSL, CIFAR-10", {"encoder", "net", "predictor2"}),
  ("E-SSL, ImageNet, SimSiam", {"backbone", "predictor", "rotation_projector"}),
  ("E-SSL, ImageNet", {"backbone", "projector", "rotation_projector"}),
  ("SimSiam as in E-SSL", {"backbone", "projector", "predictor"}),
  ("E-SSL, ImageNet, baseline", {"backbone", "projector", "online_head"}),
  ("E-SSL, ImageNet, final weights", {"backbone", "projector", "head"}),
  ("Barlow Twins", {"backbone", "projector", "bn"}),
  ("SimSiam", {"encoder", "fc", "predictor"}),
  ("MoCo", {"encoder_q"}),
  ("MoCo v3", {"base_encoder", "momentum_encoder", "predictor"}),
  ("torchvision ResNet", {"", "fc"}),
  ("ResNet without classifier", {""}),
)
PLAIN = ("torchvision ResNet", "ResNet without classifier")
