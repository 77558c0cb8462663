"""The names that known programs give to the parts of their checkpoints.

Read in the programs themselves: E-SSL's (github.com/rdangovs/essl),
facebookresearch's SimSiam, Barlow Twins, MoCo and DINO, solo-learn, timm and
torchvision.
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
  "prototypes": "prototypes",
  "rotation_projector": "transformation_head",  # E-SSL for ImageNet
  "predictor2": "transformation_head",  # E-SSL for CIFAR-10
}
CLASSIFIERS = ("fc", "online_head", "head", "heads", "classifier")
REASONS = {
  "optimizer": "optimiser state",
  "optimizer_states": "optimiser state",
  "lr_scheduler": "optimiser state",
  "lr_schedulers": "optimiser state",
  "scaler": "optimiser state",
  "bn": "of Barlow Twins' loss, which takes each batch's own statistics",
  "queue": "queue of negatives",
  "queue_ptr": "queue of negatives",
  "mask_token": "stands for masked patches, which are not used here",
  "masked_embed": "stands for masked patches, which are not used here",
  "pre_logits": "part of the classifier",
}
# Words in the names of networks that are not read, and whose these are.
OTHERS = {
  "resblocks": "CLIP's own names, which are not known here",
  "embeddings": "Hugging Face's names, which are not known here",
}

# A form is known by the parts beside, or in, the encoder; the first that fits.
FORMS = (
  ("DINO", {"student", "teacher", "head"}),
  ("solo-learn", {"backbone", "projector", "classifier"}),
  ("solo-learn", {"backbone", "momentum_backbone", "projector"}),
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
)
