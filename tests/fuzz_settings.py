"""How many examples Hypothesis tries: the same few, or many."""

from hypothesis import HealthCheck, settings


def few(number):
  """The same examples every time, for the default tests."""
  return settings(many(number), derandomize=True)


def many(number):
  """For `-m faults`; what takes too long is found by the tests themselves."""
  return settings(
    max_examples=number,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
  )
