"""Names that known programs give to the parts of their checkpoints.

They come from the programs' source: E-SSL (github.com/rdangovs/essl),
facebookresearch's SimSiam, Barlow Twins, MoCo and DINO, solo-learn, timm and
torchvision.
"""

# Words that module wrappers add to names: parallel, compiled, sharded and
# checkpointed modules.
TRANSPARENT = frozenset(
  ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
)

# Words that tell several encoders apart. AVERAGES are encoders that follow
# another one and were not trained themselves.
AVERAGES = frozenset(
  ("momentum", "ema", "target", "average", "swa", "key", "k")
)
SIDES = frozenset(("online", "base", "query", "q", "student", "teacher"))

# Parts of a checkpoint that correspond to a network here.
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
  "bn": "part of Barlow Twins' loss, which uses each batch's own statistics",
  "queue": "queue of negatives",
  "queue_ptr": "queue of negatives",
  "mask_token": "for masked patches, which are not used here",
  "masked_embed": "for masked patches, which are not used here",
  "pre_logits": "part of the classifier",
}
# Words in the names of networks that cannot be read, with their origin.
OTHERS = {
  "resblocks": "CLIP's names, which are not supported",
  "embeddings": "Hugging Face's names, which are not supported",
}

# The parts beside or in the encoder identify a form; the first that fits wins.
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
