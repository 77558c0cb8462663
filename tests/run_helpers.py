"""Workdirs of runs with random encoders, as training leaves them."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp

from essl_jax import config as config_lib
from essl_jax.data.labels import class_names
from essl_jax.evaluation.encoding import Encoding
from essl_jax.storage import about, checkpoint, places
from essl_jax.storage import workdir as workdir_lib
from essl_jax.training import applying
from essl_jax.training import experiment as experiment_lib


def begin(workdir, config):
  """Makes a workdir with a random encoder; the evaluator's features of it."""
  experiment = experiment_lib.build(config)
  encoding = Encoding(experiment)
  size = config.views.first.size
  init = nn.init(
    lambda module, x: applying.bind(module, train=False)(x),
    experiment.networks.encoder,
  )
  variables = jax.jit(init)(jax.random.key(1), jnp.zeros((1, size, size, 3)))
  workdir_lib.check_config(workdir, config_lib.to_dict(config))
  with checkpoint.Checkpoints(workdir) as checkpoints:
    checkpoints.save(3, {k: {"encoder": x} for k, x in variables.items()})
  about.write(
    places.locate(workdir),
    {
      "recipe": "a_recipe:small",
      "preprocessing": encoding.preprocessing.to_json(),
      "classes": class_names(experiment.labelled) or None,
    },
  )
  (workdir / "results.json").write_text(
    json.dumps({"step": 3, "figures": {"knn": {"knn_top1": 5.0, "k": [1]}}})
  )
  return encoding.extract(variables, "test", encoding.resize)[0]
