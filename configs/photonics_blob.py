r"""E-SimCLR on photonic crystals with one inclusion; predicts half shifts.

  python -m essl_jax.main --config=configs/photonics_blob.py:small
  python -m essl_jax.main --config=configs/photonics_blob.py:small,simclr
  python -m essl_jax.main --config=configs/photonics_blob.py \
    --config.data.dir=DIR

A network sees the permittivity of a unit cell, 32 x 32, pre-trains without
labels, and then learns the density of states from few labelled cells. DIR holds
the output of `python -m essl_jax.photonics.generate --kind=blob`; the paper has
15,000 cells without labels, 3,000 to fine-tune on and 2,000 to test on. We use
further cells to choose the epoch.

Flips and quarter turns do not change the density of states, so both views are
augmented with them. E-SimCLR predicts which of four translations by half a cell
was applied, because the inclusion has a fixed place in these cells.

Fine-tuning augments with the same invariances as pre-training; `transform` adds
one.

Variants:
  simclr      predicts nothing.
  transform   SimCLR that augments with the translations instead.
  supervised  no pre-training: learns from labelled cells and random weights;
              DIR needs no unlabelled.h5.
  small       generates a few hundred labelled cells itself; minutes on 2 CPU
              cores.

Reference: arXiv 2111.00899, section 5. Neither its cells nor their generator
were published, so figures cannot be compared digit by digit. In the paper, the
error of E-SimCLR is below SimCLR's, which is below SimCLR + transform's. Never
run at full size; experiments/README.md has our measurements.

Differences from the original program: cells are shuffled in every epoch; flips
are one of four (none, either, both) instead of one of three; projector and
classifier have a batch norm for each layer instead of sharing one; fine-tuning
drops the last, incomplete batch; the reported epoch is chosen on validation
cells. The minimum over epochs on test cells is reported beside it, for the last
checkpoint only; the original also takes it over checkpoints.
"""

import ml_collections

from essl_jax.config import base, exclusive, update_views, variants

VARIANTS = {
  "simclr": "without equivariance",
  "transform": "what E-SimCLR predicts, as augmentation",
  "supervised": "without pre-training",
  "small": "minutes on 2 CPU cores",
}


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
  """Returns the recipe; `variant` is what follows the colon."""
  return make(
    variant,
    kind="blob",
    invariances=("flips", "rotation"),
    predicted="half_translation",
  )


def make(
  variant: str | None,
  *,
  kind: str,
  invariances: tuple[str, ...],
  predicted: str,
) -> ml_collections.ConfigDict:
  """Returns the recipe for a kind of cell, for `photonics_gpm.py` too."""
  chosen = variants(variant, VARIANTS)
  baseline = exclusive(chosen, ("simclr", "transform", "supervised"))
  is_supervised = baseline == "supervised"
  measures = () if is_supervised else ("transformation", "collapse", "symmetry")
  config = base(
    method="simclr_nt_xent",
    encoder="photonics",
    data="photonics",
    evaluations=(*measures, "photonics"),
  )
  config.epochs = 0 if is_supervised else 201
  config.batch_size = 256
  config.data.train_split = "train" if is_supervised else "unlabelled"
  update_views(
    config,
    scale=(1.0, 1.0),  # the whole cell
    ratio=(1.0, 1.0),
    flip=0.0,
    jitter_probability=0.0,
    grayscale=0.0,
    mean=(0.0,),  # (permittivity - 1) / 19 without further scaling
    std=(1.0,),
  )
  if baseline == "transform":
    invariances += (predicted,)
  config.views.first.groups = config.views.second.groups = invariances
  config.temperature = 0.1
  config.projector.update(widths=(512, 512, 256), last_norm="none", bias=True)
  config.optimizer.update(
    learning_rate=1e-3,
    scale_with_batch=False,
    weight_decay=0.0,
    warmup_epochs=0,
  )
  config.equivariance.update(
    group=predicted,
    weight=0.0 if baseline else 5.0,
    hidden_widths=(512, 512),
    hidden_norm="batch",
  )
  if not is_supervised:
    config.measures.groups = ("half_translation", "rotation", "flips")

  if "small" in chosen:
    shrink(config, kind)
  return config


def shrink(config: ml_collections.ConfigDict, kind: str) -> None:
  """Makes a recipe `small`."""
  config.epochs = min(config.epochs, 20)
  config.batch_size = 128
  config.data.dir = f"runs/photonics_{kind}_small_cells"
  config.data.generate.update(kind=kind, labelled=500, unlabelled=2000)
  config.encoder.width = 8
  config.projector.widths = (128, 128, 64)
  config.equivariance.hidden_widths = (128, 128)
  config.optimizer.learning_rate = 0.03
  config.regression.update(labelled=(256,), learning_rate=1e-3)
