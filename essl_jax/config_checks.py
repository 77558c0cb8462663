"""Values that no run can have, refused by name."""

import itertools
from typing import Any

from essl_jax import transformations
from essl_jax.errors import UsageError

_CHOICES: dict[str, tuple[Any, ...]] = {
  "mode": ("train", "evaluate", "finetune"),
  "precision": ("float32", "bfloat16"),
  "evaluate_checkpoint": ("latest", "best"),
  "data.generate.kind": (None, "blob", "gpm"),
  "model.name": ("resnet", "photonic_cnn"),
  "model.depth": (18, 34, 50, 101, 152),
  "model.stem": ("cifar", "imagenet"),
  "projector.last_norm": ("batch", "batch_not_affine", "none"),
  "equivariance.heads": ("joint", "each"),
  "equivariance.hidden_norm": ("layer", "batch"),
  "optimizer.name": ("sgd", "lars"),
  "optimizer.update_rate_every": ("step", "epoch"),
  "probe.protocol": ("paper", "fast", "none"),
  "probe.optimizer": ("sgd", "lars"),
  "probe.update_rate_every": ("step", "epoch"),
  "probe.interpolation": ("bilinear", "bicubic"),
}
_AT_LEAST = {
  "epochs": 0,
  "batch_size": 2,
  "micro_batches": 1,
  "seed": 0,
  "log_every": 1,
  "steps_per_dispatch": 1,
  "checkpoint_every_epochs": 1,
  "model.width": 1,
  "predictor_hidden": 1,
  "data.image_size": 1,
  "data.resize_size": 1,
  "data.generate.labelled": 0,
  "data.generate.unlabelled": 0,
  "data.generate.seed": 0,
  "equivariance.weight": 0,
  "optimizer.learning_rate": 0,
  "optimizer.bias_learning_rate": 0,
  "optimizer.weight_decay": 0,
  "optimizer.end_factor": 0,
  "redundancy_weight": 0,
  "optimizer.momentum": 0,
  "optimizer.warmup_epochs": 0,
  "knn.every_epochs": 0,
  "knn.bank_images": 0,
  "probe.repetitions": 1,
  "probe.epochs": 1,
  "probe.batch_size": 1,
  "probe.momentum": 0,
  "probe.weight_decay": 0,
  "probe.initial_std": 0,
  "probe.resize_size": 1,
  "probe.checkpoint_every_epochs": 1,
  "measures.images": 10,
  "finetune.subset": 0,
  "finetune.epochs": 1,
  "finetune.batch_size": 1,
  "finetune.learning_rate": 0,
  "finetune.head_learning_rate": 0,
  "finetune.momentum": 0,
  "finetune.weight_decay": 0,
  "regression.repetitions": 1,
  "regression.epochs": 1,
  "regression.batch_size": 1,
  "regression.weight_decay": 0,
}
_ABOVE_0 = (
  "temperature",
  "knn.temperature",
  "probe.learning_rate",
  "optimizer.trust_coefficient",
  "regression.learning_rate",
)
_BELOW_1 = (
  "optimizer.momentum",
  "optimizer.end_factor",
  "probe.momentum",
  "finetune.momentum",
)


def check(config: Any) -> None:
  """Refuses values that no run can have, naming field, value and choices.

  Args:
    config: a `config.Config`.

  Raises:
    UsageError: in one line.
  """
  for name, allowed in _CHOICES.items():
    value = _get(config, name)
    if value not in allowed:
      known = ", ".join(str(item) for item in allowed)
      raise UsageError(f"config.{name} must be one of {known}; got {value!r}")
  for name, least in _AT_LEAST.items():
    value = _get(config, name)
    if value is not None and not least <= value < float("inf"):
      raise UsageError(f"config.{name} must be at least {least}; got {value}")
  for name in _BELOW_1:
    if _get(config, name) >= 1:
      raise UsageError(
        f"config.{name} must be below 1; got {_get(config, name)}"
      )
  for name in _ABOVE_0:
    value = _get(config, name)
    if value is not None and not 0 < value < float("inf"):
      raise UsageError(f"config.{name} must be above 0; got {value}")
  _check_labels(config)
  _check_sizes(config)
  _check_resolution(config.views.resolution)
  _check_groups(config)
  _check_unread(config)
  _check_optimizer(config)


def _check_labels(config: Any) -> None:
  if config.online_classifier and config.data.labelled_split is not None:
    raise UsageError(
      "config.online_classifier wants labels of the pre-training images, and"
      " config.data.labelled_split says that they have none: unset one of them"
    )


def _check_sizes(config: Any) -> None:
  for name in (
    "projector.widths",
    "equivariance.hidden_widths",
    "regression.labelled",
  ):
    value = _get(config, name)
    is_empty = not value and name != "equivariance.hidden_widths"
    if is_empty or min(value, default=1) < 1:
      raise UsageError(f"config.{name} must be positive sizes; got {value}")
  if not config.knn.ks or min(config.knn.ks) < 1:
    raise UsageError(f"config.knn.k must be at least 1; got {config.knn.k}")
  if not 0 < config.finetune.labels <= 1:
    raise UsageError(
      "config.finetune.labels must be a part of the training images, above 0"
      f" and at most 1; got {config.finetune.labels}"
    )
  if config.seed >= 2**32:
    raise UsageError(f"config.seed must be below 2**32; got {config.seed}")


def _check_resolution(stages: tuple[tuple[float, ...], ...]) -> None:
  begins = [stage[0] for stage in stages if stage]
  rises = all(a < b for a, b in itertools.pairwise(begins))
  if (
    any(len(stage) != 2 or not 0 < stage[1] <= 1 for stage in stages)
    or (stages and begins[0] != 0)
    or not (rises and all(0 <= begin < 1 for begin in begins))
  ):
    raise UsageError(
      "config.views.resolution must be pairs (part of the training, fraction"
      " of the views' sizes), the parts rising from 0 and below 1, the"
      f" fractions above 0 and at most 1; got {stages}"
    )


def _check_groups(config: Any) -> None:
  for name in config.measures.groups:
    try:
      transformations.find(name)
    except ValueError as error:
      raise UsageError(f"config.measures.groups: {error}") from error
  is_trained = config.epochs or config.init_from
  if config.measures.groups and not is_trained:
    raise UsageError(
      "config.measures.groups are of a trained encoder, and config.epochs is 0"
      " without config.init_from: leave them out"
    )


def _check_optimizer(config: Any) -> None:
  is_lars = config.optimizer.name == "lars"
  if is_lars != (config.optimizer.trust_coefficient is not None):
    verb = "needs" if is_lars else "does not read"
    raise UsageError(
      f"optimizer {config.optimizer.name} {verb}"
      " config.optimizer.trust_coefficient"
    )
  if config.optimizer.warmup_epochs >= max(config.epochs, 1):
    raise UsageError(
      f"config.optimizer.warmup_epochs ({config.optimizer.warmup_epochs})"
      f" must be below config.epochs ({config.epochs})"
    )


# By what is chosen: fields that are then not read and keep their defaults.
_UNREAD = {
  ("model.name", "photonic_cnn"): (
    "model.depth",
    "model.stem",
    "model.zero_init_last_norm",
    "model.rematerialize",
    "views.resolution",
  ),
  ("data.name", "photonics"): (
    "data.on_device",
    "data.image_size",
    "data.resize_size",
    "data.labelled_split",
    "views.extra",
    "views.resolution",
    "online_classifier",
    "evaluate_checkpoint",
    "knn",
    "probe",
    "finetune",
  ),
}
_PHOTONICS_ONLY = ("data.generate", "regression")


def _check_unread(config: Any) -> None:
  """Refuses values of fields that the model or the data do not read."""
  for (chooser, choice), names in _UNREAD.items():
    if _get(config, chooser) == choice:
      _refuse_changes(config, names, f"{chooser}={choice}")
  if config.data.name != "photonics":
    _refuse_changes(config, _PHOTONICS_ONLY, f"data.name={config.data.name}")
    if config.epochs == 0:
      raise UsageError(
        "config.epochs must be at least 1; got 0, which is for"
        " data.name=photonics alone"
      )
  elif config.mode == "finetune":
    raise UsageError(
      "config.mode=finetune is for classes; data.name=photonics fine-tunes for"
      " its regression in the modes train and evaluate"
    )


def _refuse_changes(config: Any, names: tuple[str, ...], reader: str) -> None:
  for name in names:
    owner, _, field = name.rpartition(".")
    kind = type(_get(config, owner) if owner else config)
    default = getattr(kind, field)  # a dataclass keeps defaults on itself
    if _get(config, name) != default:
      raise UsageError(f"{reader} does not read config.{name}: leave it unset")


def _get(config: Any, name: str) -> Any:
  value: Any = config
  for part in name.split("."):
    value = getattr(value, part)
  return value
