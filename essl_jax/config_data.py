"""What a run can be told of its images; see `config`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Generate:
  """Unit cells to be made in `data.dir` where they are missing.

  Attributes:
    kind: of cells: `blob` or `gpm`; absent, nothing is made.
    labelled: training and test cells, which have a density of states; a tenth
      as many come on top to validate on, so 10 or more.
    unlabelled: cells without, 1 or more.
    seed: of the cells.
  """

  kind: str | None = None
  labelled: int = 0
  unlabelled: int = 0
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class Data:
  """Where the images come from.

  Attributes:
    name: a TFDS data set, `folder` (files in `dir/<split>/<class>/`), `digits`
      (scikit-learn), `photonics` (unit cells, from
      `python -m essl_jax.photonics.generate`), or the path of an `.npz`.
    dir: the TFDS data directory, TFDS's own default when absent; the root of
      an image folder or of unit cells, which have no default.
    on_device: reads the set once, resized for evaluation, and keeps it in
      device memory instead of streaming it; `digits` and `.npz` always live
      there.
    train_split: pre-training images.
    labelled_split: kNN bank and training of probes, where the pre-training
      images have no labels; absent, they are `train_split`.
    test_split: evaluation images; `val` in most image folders.
    image_size: side of evaluation images in pixels, cut from the centre;
      needed where a set's images differ in size. Training crops such images
      from their full size.
    resize_size: shorter side (bilinear) before that cut, such as 256 for an
      `image_size` of 224; absent, it is `image_size`.
    generate: of `photonics` alone: what to make where `dir` lacks it.
  """

  name: str
  dir: str | None = None
  on_device: bool = False
  train_split: str = "train"
  labelled_split: str | None = None
  test_split: str = "test"
  image_size: int | None = None
  resize_size: int | None = None
  generate: Generate = Generate()

  @property
  def labelled(self) -> str:
    """The split whose labels kNN and probes learn from."""
    return self.labelled_split or self.train_split
