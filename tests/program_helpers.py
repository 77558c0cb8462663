"""Starts the program on a tiny config, as a user does or with two blocks."""

import os
import pathlib
import subprocess
import sys

import jax
import xla_flags

ROOT = pathlib.Path(__file__).parents[1]
TINY = """
import ml_collections
from essl_jax.variants import variants

def get_config(variant=None):
  chosen = variants(variant, {"baseline": "without equivariance"})
  view = dict(size=16)
  return ml_collections.ConfigDict(dict(
      method="simclr", epochs=6, batch_size=16, temperature=0.5, log_every=1,
      checkpoint_every_epochs=1, mode="train",
      data=dict(name="digits", train_split="train[:64]",
                test_split="test[:40]",
                dir=ml_collections.config_dict.placeholder(str)),
      views=dict(first=dict(view), second=dict(view), third=dict(size=8)),
      model=dict(width=8), projector=dict(widths=(32, 32)),
      equivariance=dict(group="rotation", hidden_widths=(32,),
                        weight=0.0 if chosen else 0.4),
      optimizer=dict(warmup_epochs=1), knn=dict(k=20, every_epochs=2),
      probe=dict(protocol="fast", epochs=3, repetitions=2)))
"""
TWO_BLOCKS = ((1, 1, 0, 0), False)  # as in `resnet.STAGES`
# The program but for its ResNet-18, which has two blocks: it is traced and
# compiled in a third of the time.
SHORT_PROGRAM = f"""
from essl_jax import main
from essl_jax.models import resnet
resnet.STAGES[18] = {TWO_BLOCKS}
main.run()
"""


def environment(devices=1):
  """Simulated devices, the tests' compilation cache."""
  cache = jax.config.jax_compilation_cache_dir
  return os.environ | {
    "XLA_FLAGS": xla_flags.make(devices),
    "JAX_COMPILATION_CACHE_DIR": cache,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",
    "PYTHONPATH": str(ROOT),
  }


def command(config_file, workdir, *flags, program=("-m", "essl_jax.main")):
  """The words of a start."""
  return [
    sys.executable,
    *program,
    f"--config={config_file}",
    f"--workdir={workdir}",
    *flags,
  ]


def short_command(*arguments):
  """The words of a start with two blocks."""
  return command(*arguments, program=("-c", SHORT_PROGRAM))


def run(*arguments):
  """One start with two blocks, waited for."""
  return subprocess.run(
    short_command(*arguments),
    env=environment(),
    capture_output=True,
    text=True,
    timeout=280,
    check=False,
  )
