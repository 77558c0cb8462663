"""The views that methods and terms ask for."""

import types

import pytest

from essl_jax.augment import View, ViewRequest
from essl_jax.errors import UsageError
from essl_jax.training import views

pytestmark = pytest.mark.quick


def part(*requests):
  """A part that asks for some views."""
  return types.SimpleNamespace(requests=lambda _: list(requests))


def test_each_view_is_drawn_once():
  first, second = ViewRequest("first", View()), ViewRequest("second", View())
  found = views.union([part(first, second), part(second)], None)
  assert found == [first, second]


@pytest.mark.parametrize(
  ("requests", "expected"),
  [
    ([ViewRequest("image", View())], "'image'.*give it another name"),
    ([ViewRequest("label", View())], "'label'.*give it another name"),
    (
      [ViewRequest("first", View()), ViewRequest("first", View(8))],
      "a view 'first' that differs.*give it another name",
    ),
    ([ViewRequest("again", View(), draw_of="first")], "draw of 'first'"),
  ],
)
def test_requests_that_do_not_fit(requests, expected):
  with pytest.raises(UsageError, match=expected):
    views.union([part(*requests)], None)
