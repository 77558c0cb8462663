"""The page of all fields is the one that the classes would write."""

import pathlib

import pytest

from essl_jax.config import fields, page, parts
from essl_jax.config.config import (
  Config,
  Data,
  Encoder,
  Measures,
  Optimizer,
  Views,
)

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).parents[2]
KINDS = (
  parts.METHOD,
  parts.TERM,
  parts.ENCODER,
  parts.SOURCE,
  parts.EVALUATION,
  parts.LOGGER,
)
HOLDERS = [
  Config,
  Data,
  Encoder,
  Measures,
  Optimizer,
  Views,
  *(kind.find(name) for kind in KINDS for name in kind.names()),
]


def test_page_is_up_to_date():
  there = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
  assert there == page.page(), "run python -m essl_jax.config > docs/config.md"


@pytest.mark.parametrize("holder", HOLDERS, ids=lambda x: x.__name__)
def test_every_field_says_what_it_does(holder):
  silent = [name for name, x in fields.of(holder).items() if not x.help]
  assert silent == []


def test_every_known_part_is_found():
  names = {kind.field: kind.names() for kind in KINDS}
  assert {"simclr", "simsiam", "barlow_twins", "byol"} <= set(names["method"])
  assert {"resnet", "vit"} <= set(names["encoder.name"])
  assert {"digits", "folder"} <= set(names["data.name"])
  assert {"knn", "probe", "finetune"} <= set(names["evaluations"])
  assert {"prediction", "augself", "equimod"} <= set(names["terms"])
