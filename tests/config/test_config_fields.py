"""Every field of the config is read by the run that it is for."""

import dataclasses
import sys
from unittest import mock

import folder_helpers
import jax
import numpy as np
import photonics_helpers
import step_helpers

from essl_jax import augment
from essl_jax import config as config_lib
from essl_jax import run as train
from essl_jax.config import fields, parts
from essl_jax.devices import parallel
from essl_jax.evaluation import single_pass
from essl_jax.training import networks as networks_lib
from essl_jax.training import parameter_groups
from essl_jax.training import step as step_lib


def _groups(part):
  """A part and the groups of fields within it."""
  if isinstance(part, type):
    yield part
  for field in fields.of(part).values():
    if dataclasses.is_dataclass(field.hint):
      yield from _groups(field.hint)


def _trace_a_step(config):
  """Builds the networks of a config and a step of them; computes nothing."""
  parameter_groups.make(config, steps_per_epoch=4)
  parameter_groups.clip(config)
  problem = step_helpers.make_problem(config)
  requests = step_helpers.make_requests(config)
  make = lambda: step_lib.create_state(problem, seed=0, requests=requests)
  step = step_helpers.make_step(config, None)
  jax.eval_shape(step, jax.eval_shape(make), step_helpers.batch())


def _measure_views(monkeypatch, tiny_config):
  """Measures that look at many views, with noise for what they would see."""
  names = ("parameters", "ranks")
  config = tiny_config(
    "simclr", terms=("equimod",), evaluations=("knn", "probe", *names)
  )
  splits = {"train_split": "train", "test_split": "test"}
  bench = mock.MagicMock(at_random=(), splits=splits)
  bench.experiment.config = config
  bench.experiment.networks = networks_lib.make_networks(config)
  bench.experiment.mesh = parallel.make_mesh(jax.devices()[:1])
  noise = np.random.default_rng(0)
  *_, told, ranked = config_lib.evaluations(config)
  for evaluation, shape in ((told, (20, 2, 32)), (ranked, (20, 52))):
    rows = noise.uniform(1, 2, shape), None
    monkeypatch.setattr(single_pass, "run", lambda *_, x=rows, **__: x)
    assert evaluation.rows(evaluation.run(bench, mock.MagicMock()))


def test_every_field_is_read(monkeypatch, tmp_path, tiny_config):
  """A field that nobody reads would silently do nothing."""
  known = [config_lib.Config, config_lib.Views, config_lib.Encoder]
  known.append(augment.View)
  for kind in (
    parts.METHOD,
    parts.TERM,
    parts.ENCODER,
    parts.SOURCE,
    parts.EVALUATION,
  ):
    known += map(kind.find, kind.names())
  groups = list(dict.fromkeys(x for part in known for x in _groups(part)))
  read = set()

  def get(self, name):
    caller = sys._getframe(1)
    is_ours = caller.f_globals["__name__"].startswith("essl_jax.")
    # Comparing and checking a part read all its fields, for nothing.
    is_its_own = caller.f_code.co_filename == "<string>"
    is_its_own |= caller.f_code.co_name == "__post_init__"
    if is_ours and not is_its_own:
      read.add((type(self).__name__, name))
    return object.__getattribute__(self, name)

  for group in groups:
    monkeypatch.setattr(group, "__getattribute__", get)

  random = np.random.default_rng(0)
  images = random.integers(0, 256, (32, 16, 16, 3), np.uint8)
  labels = np.arange(32) % 4
  path = tmp_path / "images.npz"
  arrays = {"train_images": images, "train_labels": labels}
  np.savez(path, **arrays, test_images=images, test_labels=labels)
  given = {"data": {"name": str(path)}, "encoder": {"blocks": (1,)}}
  paper = {"protocol": "paper", "epochs": 1, "batch_size": 16}
  moved = {"sets": (str(path),), "penalties": 2, "labels": (0.5,)}
  moved |= {"shots": (1,), "ways": 2, "queries": 1, "episodes": 2}
  measures = {"evaluations": ("knn", "probe", "transfer"), "transfer": moved}
  config = tiny_config("simsiam", **given, probe=paper, **measures)
  few = {"labels": 0.5, "epochs": 1, "batch_size": 16}
  tuned = tiny_config("simsiam", **given, mode="finetune", finetune=few)
  raw = photonics_helpers.raw_config(epochs=0)
  raw["evaluations"] = ("photonics",)
  raw["data"]["dir"] = str(tmp_path / "cells")
  raw["data"]["generate"] = {"kind": "blob", "labelled": 14, "unlabelled": 16}
  raw["regression"] |= {"labelled": (8,), "repetitions": 1, "epochs": 1}
  cells = config_lib.parse(raw)
  short = {"blocks": (1,)}
  others = [tiny_config(x, encoder=short) for x in parts.METHOD.names()]
  narrow = {
    "care": {"care": {"chunks": 4}},
    "sie": {"sie": {"equivariant_features": 4}},
  }
  others += [
    tiny_config("simclr", encoder=short, terms=(x,), **narrow.get(x, {}))
    for x in parts.TERM.names()
  ]
  encoder = {"name": "vit", "image_size": 16, "patch": 8, "width": 8}
  encoder |= {"depth": 1, "heads": 2}
  view = {"size": 16, "blur": 0.5, "solarize": 0.5}
  views = dict.fromkeys(("first", "second", "third"), view)
  adamw = {"name": "adamw", "clip_gradients": 3.0}
  others.append(
    config_lib.parse(
      {
        "method": "simclr",
        "temperature": 0.5,
        "data": {"name": "digits"},
        "views": views,
        "encoder": encoder,
        "optimizer": adamw,
      }
    )
  )

  read.clear()  # what `parse` itself looked at does not count
  train.run(config, tmp_path / "run")
  train.run(tuned, tmp_path / "run")
  sizes = {"unlabelled": 16, "train": 8, "validation": 3, "test": 3}
  photonics_helpers.stand_in(monkeypatch, sizes)
  train.run(cells, tmp_path / "photonics")
  folder_helpers.open_folder(folder_helpers.write_folder(tmp_path / "folder"))
  for other in others:
    _trace_a_step(other)
  with monkeypatch.context() as patch:
    _measure_views(patch, tiny_config)
  wanted = {(x.__name__, name) for x in groups for name in fields.of(x)}
  assert wanted - read == set()
