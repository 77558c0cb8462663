r"""E-SimCLR on a folder of images without labels: ResNet-18, any layout.

  essl-jax train --config=folder --config.data.dir=photos
  essl-jax train --config=folder:size=224 --config.data.dir=photos
  essl-jax train --config=folder:small --config.data.dir=photos
  essl-jax embed runs/folder photos --out=features.npz

Images may be in the folder or in subfolders of any depth, and may differ in
size. No labels are read. A tenth of the images, at most 2,000, is held out for
measurements. kNN, probe and fine-tuning need labels, which another folder may
have:

  essl-jax evaluate runs/folder --config.data.labelled_dir=labelled \
    --config.data.labelled_test_split=val

Variants combine with commas (`:small,baseline`):
  size=64, size=224
            side of the views in pixels; 64 by default.
  baseline  SimCLR: no rotations are predicted. Use it for images without an
            upward direction, such as those of microscopes and satellites.
  small     a quarter of the width and at most 20 epochs: to try out on a CPU.

Unless flags set them, batch size and epochs follow from the number of images.
The batch size is the largest power of two up to a quarter of the images, at
most 256. The epochs, 100 to 800, show about 8 million images. The run prints
its choice at the start. Temperature, rates and views are those of cifar_fast.py
and imagenet_simclr.py; they were never compared on such folders.
"""

from collections.abc import Collection, Iterator
from typing import Any

import ml_collections

from essl_jax.config import base, option, update_views, variants

VARIANTS = {
  "baseline": "without equivariance",
  "size=64": "pixels of the views",
  "size=224": "pixels of the views",
  "small": "for trying out",
}
_SEEN = 8_000_000  # images over all epochs
_FEWEST_EPOCHS, _MOST_EPOCHS = 100, 800
_LARGEST_BATCH = 256
_MOST_HELD_OUT = 2000


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; `variant` is what follows the colon."""
  chosen = variants(variant, VARIANTS)
  baseline = "baseline" in chosen
  size = int(option(chosen, "size", "64"))
  config = base(method="simclr", data="image_files")
  config.epochs = _MOST_EPOCHS
  config.batch_size = _LARGEST_BATCH
  config.data.update(
    train_split="all",
    test_split="all",
    image_size=size,
    resize_size=round(size / 0.875),  # as 256 / 224
  )
  update_views(
    config,
    size=size,
    mean=(0.485, 0.456, 0.406),  # ImageNet's
    std=(0.229, 0.224, 0.225),
  )
  if size > 64:
    update_views(config, interpolation="bicubic", blur=0.5)
  config.views.third.size = 96 if size > 64 else size // 2
  config.temperature = 0.2
  config.optimizer.learning_rate = 0.03 if baseline else 0.06
  config.equivariance.weight = 0.0 if baseline else 0.4
  config.knn.update(every_epochs=10, k=20)
  config.probe.protocol = "fast"
  config.measures.groups = ("rotation",)

  if "small" in chosen:
    config.epochs = 20
    config.encoder.width = 16
    config.projector.widths = (512, 512)
    config.equivariance.hidden_widths = (512, 512)
  return config


def adapt(config: dict[str, Any], given: Collection[str]) -> Iterator[str]:
  """Chooses the settings that depend on the number of images.

  Args:
    config: all fields, nested; changed in place.
    given: dotted names of the fields that the user has set; they do not change.

  Yields:
    A line that says what was chosen.
  """
  data = config["data"]
  if data["name"] != "image_files" or not data.get("dir"):
    return
  from essl_jax.data import checks, image_files

  sizes = image_files.sizes(data["dir"], data["cache_gib"])
  total = sizes[image_files.ALL]
  if total < 4:
    raise ValueError(f"{data['dir']} holds {total} image(s): give 4 or more")
  splits = {"data.train_split", "data.test_split"}
  if len(named := splits & set(given)) == 1:
    (one,), (other,) = named, splits - named
    raise ValueError(
      f"config.{one} is set but config.{other} is not: set both or neither"
    )
  if not named:
    held = min(max(total // 10, 2), _MOST_HELD_OUT)
    data.update(train_split=f"all[{held}:]", test_split=f"all[:{held}]")
  parts = checks.parse_split(data["train_split"], sizes)
  images = sum(len(range(sizes[name])[part]) for name, part in parts)
  if "batch_size" not in given:
    quarter = max(images // 4, 2)
    largest = min(config["batch_size"], 2 ** (quarter.bit_length() - 1))
    config["batch_size"] = largest
  if "epochs" not in given:
    wanted = max(_SEEN // images, _FEWEST_EPOCHS)
    config["epochs"] = min(config["epochs"], wanted)
  if "optimizer.warmup_epochs" not in given:
    config["optimizer"]["warmup_epochs"] = min(10, config["epochs"] // 10)
  batch, epochs = config["batch_size"], config["epochs"]
  yield (
    f"{total:,} images in {data['dir']}, {images:,} to train on"
    f" ({data['train_split']}): {epochs:,} epochs at batch size {batch}, views"
    f" of {config['views']['first']['size']} pixels; no labels are read"
  )
