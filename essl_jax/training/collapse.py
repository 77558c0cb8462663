"""Warns, once, of embeddings that collapse while a network learns."""

from collections.abc import Callable, Mapping

from essl_jax import config as config_lib

# As a part of 1/sqrt(D), the deviation of embeddings that fill the sphere. A
# healthy DINO came down to 0.13.
_PART = 0.05
# Effective rank. A healthy E-BYOL passed 2.00 on its way to 21.
_DIRECTIONS = 1.5
_LOOKS = 2  # in a row
_ADVICE = (
  "try a lower config.optimizer.learning_rate, more"
  " config.optimizer.warmup_epochs, a larger config.batch_size or weaker"
  " weight decay; see docs/watching.md"
)


class Alarm:
  """Follows the measures of collapse and warns once if they stay low.

  It starts after the warm-up, at the earliest after the first epoch: the
  embeddings of an untrained network without batch norms may be nearly equal.

  Short runs on CIFAR-10 set the bounds; docs/watching.md has the figures.

  Reference:
    Chen and He 2021 (arXiv 2011.10566), figure 2: 1/sqrt(D) and 0.
  """

  def __init__(
    self,
    config: config_lib.Config,
    steps_per_epoch: int,
    say: Callable[[str], None],
  ) -> None:
    """Starts to follow.

    Args:
      config: gives the projector's width; without a projector, the deviation of
        embeddings has no bound and only the effective rank is followed.
      steps_per_epoch: how many steps in a row the deviation must be low.
      say: gets the line.
    """
    projector = getattr(config, "projector", None)
    widths = getattr(projector, "widths", None)
    self._spread = widths[-1] ** -0.5 if widths else None
    self._steps_per_epoch = steps_per_epoch
    self._silent_epochs = max(1, config.optimizer.warmup_epochs)
    self._say = say
    self._low_steps = self._low_looks = 0
    self._is_told = False

  def step(self, step: int, figures: Mapping[str, float]) -> None:
    """Takes the figures of one training step.

    Args:
      step: number of updates done.
      figures: by name; ignored without `embedding_std`.
    """
    deviation = figures.get("embedding_std")
    is_early = step <= self._silent_epochs * self._steps_per_epoch
    if deviation is None or self._spread is None or is_early:
      return
    bound = _PART * self._spread
    self._low_steps = self._low_steps + 1 if deviation < bound else 0
    if self._low_steps >= self._steps_per_epoch:
      self._tell(
        f"the deviation of unit-length embeddings was below {bound:.3g} for the"
        f" {self._low_steps} steps up to step {step:,} ({self._spread:.3g} if"
        " spread out, 0 if all are equal)"
      )

  def look(self, epoch: int, figures: Mapping[str, float]) -> None:
    """Takes the figures of a state after an epoch.

    Args:
      epoch: epochs done.
      figures: by name; ignored without `effective_rank`, of the features.
    """
    rank = figures.get("effective_rank")
    if rank is None or epoch <= self._silent_epochs:
      return
    self._low_looks = self._low_looks + 1 if rank < _DIRECTIONS else 0
    if self._low_looks >= _LOOKS:
      self._tell(
        f"the effective rank of features is {rank:.2f} after epoch {epoch}, and"
        f" was below {_DIRECTIONS:g} at the look before: they vary in at most"
        " one direction"
      )

  def _tell(self, what: str) -> None:
    if not self._is_told:
      self._is_told = True
      self._say(f"warning: the representations collapse: {what}: {_ADVICE}")
