"""Unit cells without physics, for the tests of what is trained on them."""

import numpy as np

from essl_jax.photonics import dataset, density, generate
from essl_jax.photonics import source as source_lib


def permittivities(number, seed):
  """Round inclusions about the centre, [N, 32, 32] in 1..20."""
  random = np.random.default_rng(seed)
  y, x = (np.mgrid[:32, :32] - 15.5) / 32
  radius = random.uniform(0.1, 0.4, (number, 1, 1))
  stretch = random.uniform(0.7, 1.4, (number, 1, 1))
  inside = np.hypot(x * stretch, y / stretch) < radius
  inner, outer = random.uniform(1, 20, (2, number, 1, 1))
  return np.where(inside, inner, outer).astype(np.float32)


def densities(permittivity):
  """Free space with a bump that the mean and the contrast move, [N, 500]."""
  mean = permittivity.mean((1, 2))[:, None]
  contrast = permittivity.std((1, 2))[:, None]
  frequencies = density.frequencies()[None]
  bump = np.exp(-(((frequencies - 0.2 - mean / 40) / 0.1) ** 2))
  return (2 * np.pi * frequencies + contrast * bump / 4).astype(np.float32)


def labelled(number, seed):
  """Cells with densities."""
  found = permittivities(number, seed)
  learned = densities(found)[:, : density.NUM_TARGETS]
  return source_lib.LabelledCells(source_lib.scale(found), learned)


def source(unlabelled=48, train=24, validation=9, test=11):
  """A source as `data.open_source` opens one."""
  splits = {
    name: labelled(number, seed)
    for seed, (name, number) in enumerate(
      {"train": train, "validation": validation, "test": test}.items()
    )
  }
  images = source_lib.scale(permittivities(unlabelled, 9))
  made = {"kind": "blob", "seed": 7}
  return source_lib.CellSource(images, splits["test"].image, splits, made)


def raw_config(**fields):
  """A recipe of width 2 that takes seconds."""
  view = {
    "size": 32,
    "scale": (1.0, 1.0),
    "ratio": (1.0, 1.0),
    "flip": 0.0,
    "jitter_probability": 0.0,
    "grayscale": 0.0,
    "mean": (0.5,),
    "std": (0.3,),
  }
  first = view | {"groups": ("flips", "rotation")}
  return {
    "method": "simclr_nt_xent",
    "temperature": 0.1,
    "epochs": 2,
    "batch_size": 16,
    "log_every": 1,
    "data": {"name": "photonics", "train_split": "unlabelled"},
    "views": {"first": first, "second": first, "third": view},
    "encoder": {"name": "photonics", "width": 2},
    "evaluations": ("transformation", "collapse", "symmetry", "photonics"),
    "projector": {"widths": (16, 8), "last_norm": "none", "bias": True},
    "equivariance": {
      "group": "half_translation",
      "weight": 5.0,
      "hidden_widths": (16, 16),
      "hidden_norm": "batch",
    },
    "optimizer": {"warmup_epochs": 0, "scale_with_batch": False},
    "regression": {
      "labelled": (8, 20),
      "repetitions": 2,
      "epochs": 3,
      "batch_size": 8,
      "learning_rate": 0.003,
    },
  } | fields


def stand_in(monkeypatch, sizes):
  """Cells that are made and read without physics; returns what was asked."""
  asked = []

  def make(arguments):
    asked.append(dict(x.lstrip("-").split("=", 1) for x in arguments))

  def load(directory, split, **_):
    found = permittivities(sizes[split], list(sizes).index(split))
    is_labelled = split != "unlabelled"
    return dataset.Cells(found, densities(found) if is_labelled else None)

  monkeypatch.setattr(generate, "main", make)
  monkeypatch.setattr(dataset, "load", load)
  return asked
