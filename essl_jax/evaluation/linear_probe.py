"""Linear classification on a frozen encoder: two protocols.

`paper` trains on freshly augmented images that pass the encoder at every step,
`fast` on features computed once. Both minimise the softmax cross entropy of
one linear layer under a cosine and count the right answers over all test
images.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from essl_jax.data import Source
from essl_jax.evaluation import classifier
from essl_jax.evaluation import features as features_lib
from essl_jax.evaluation.bench import Labelled
from essl_jax.evaluation.features import Encode
from essl_jax.evaluation.linear_layer import fit_features
from essl_jax.evaluation.recipe import Recipe


def run(
  encode: Encode,
  variables: Any,
  source: Source,
  *,
  protocol: str,
  recipe: Recipe,
  train: Callable[[], Labelled],
  test: Callable[[], Labelled],
  setup: classifier.Setup,
  **options: Any,
) -> dict[str, Any]:
  """Runs a probe and asserts that it left the encoder as it was.

  Args:
    encode: the frozen encoder, on normalised images.
    variables: its variables.
    source: with the split `train`.
    protocol: `paper` (`run_paper`) or `fast` (`fit_features`).
    recipe: how the layer is trained.
    train: gives features and labels of the training images, for `fast`.
    test: likewise of the test images.
    setup: see there; `fast` reads the seed alone.
    **options: of `run_paper`.

  Returns:
    The figures of the protocol's function.

  Raises:
    RuntimeError: when the encoder's variables changed.
  """
  before = features_lib.fingerprint(variables)
  if protocol == "fast":
    figures = fit_features(
      *train(),
      *test(),
      num_classes=source.num_classes,
      recipe=recipe,
      seed=setup.seed,
    )
  else:
    figures = run_paper(
      encode, variables, source, test(), recipe=recipe, setup=setup, **options
    )
  after = features_lib.fingerprint(variables)
  if before != after:
    raise RuntimeError(f"the {protocol} probe changed the encoder's variables")
  return figures


def run_paper(
  encode: Encode,
  variables: Any,
  source: Source,
  test: Labelled,
  *,
  recipe: Recipe,
  setup: classifier.Setup,
  **options: Any,
) -> dict[str, Any]:
  """Probes freshly augmented images: the protocol `paper`.

  The training stream drops the last, smaller batch of an epoch. A training set
  below the batch size is one batch. Test images are not augmented, so all
  repetitions share their features.

  Args:
    encode: the frozen encoder, on normalised images.
    variables: its variables.
    source: with the split `train`.
    test: features [M, D] and labels of the test images.
    recipe: how the layer is trained.
    setup: see there.
    **options: `save_every_epochs` and `progress` of `fitting.run`.

  Returns:
    The figures of `linear_layer.summarise` and the protocol.

  Raises:
    UsageError: for a batch that the devices cannot divide.
    FloatingPointError: for a probe that diverges.
  """
  number = source.num_examples("train")
  recipe = recipe.fitted(number, setup.mesh, "probe.batch_size")
  features = _frozen(encode, variables, test)
  optimizer = recipe.make_optimizer(number // recipe.batch_size)
  protocol = {"protocol": "paper", "seed": setup.seed} | recipe.describe()
  protocol |= {
    "augmentation": classifier.describe_view(setup.view),
    "features": "frozen encoder in evaluation mode",
    "num_train": number,
    "num_test": len(test[0]),
  }
  return classifier.Classifier(
    "linear_probe", features, source, setup, recipe, optimizer
  ).run("linear", protocol, **options)


def _frozen(
  encode: Encode, variables: Any, test: Labelled
) -> classifier.Features:
  """The features of an encoder that stays as it is."""

  def compute(
    params: Any, variables: Any, images: jax.Array, key: jax.Array
  ) -> tuple[jax.Array, Any]:
    del params, key
    found = encode(variables, images).astype(jnp.float32)
    return jax.lax.stop_gradient(found), variables

  return classifier.Features(
    compute,
    width=test[0].shape[1],
    trained={},
    variables=variables,
    test=lambda _: test,
    fingerprint=features_lib.fingerprint(variables),
  )
