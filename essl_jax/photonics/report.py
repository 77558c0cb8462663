"""A picture of a data set: cells, their bands and densities of states."""

import io
import pathlib

import numpy as np

from essl_jax.evaluation import drawing
from essl_jax.photonics import bands, dataset, density, storage

NAME = "report.png"
_ROWS = 4
_SIDE = 20  # k-points between two corners


def write(directory: pathlib.Path, split: str) -> None:
  """Draws the first cells of a split.

  Args:
    directory: directory of the data set; `<split>.h5` must exist.
    split: name of the split.
  """
  cells = dataset.load(directory, split)
  images = cells.permittivity[:_ROWS]
  path, corners = _path()
  solved = bands.solve(images, k_points=path)
  figure = drawing.make_figure(figsize=(10, 2.8 * len(images)))
  axes = figure.subplots(len(images), 3, squeeze=False)
  for row, image, frequencies in zip(
    axes, images, solved.frequencies, strict=True
  ):
    shown = row[0].imshow(
      image.T, origin="lower", extent=(-0.5, 0.5, -0.5, 0.5), vmin=1, vmax=20
    )
    figure.colorbar(shown, ax=row[0], label="permittivity")
    row[1].plot(frequencies, "k", linewidth=0.8)
    row[1].set_xticks(corners, ["Γ", "X", "M", "Y", "Γ"])
    row[1].set_ylabel("ωa / 2πc")
    row[1].grid(axis="x")
    row[2].plot(density.frequencies(), density.empty_lattice(), "C7--")
    row[2].set_xlabel("ω √ε̄ a / 2πc")
    row[2].set_ylabel("density of states")
  if cells.density_of_states is not None:
    for row, values in zip(axes, cells.density_of_states, strict=False):
      row[2].plot(density.frequencies()[: len(values)], values, "C0")
  figure.suptitle(f"{split}, the first {len(images)} of {len(cells[0]):,}")
  figure.tight_layout()
  picture = io.BytesIO()
  figure.savefig(picture, format="png")
  storage.replace(directory / NAME, picture.getvalue())


def _path() -> tuple[np.ndarray, np.ndarray]:
  """Returns k-points [K, 2] around the half zone, and its corners' indices."""
  corners = 0.5 * np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]])
  steps = np.arange(_SIDE)[:, None] / _SIDE
  legs = [
    begin + steps * (end - begin)
    for begin, end in zip(corners[:-1], corners[1:], strict=True)
  ]
  points = np.concatenate([*legs, corners[-1:]])
  return points, _SIDE * np.arange(len(corners))
