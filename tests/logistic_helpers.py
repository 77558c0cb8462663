"""Logistic regressions of scikit-learn, to compare with."""

import warnings

import numpy as np
import pytest


def theirs(features, labels, penalty):
  """scikit-learn's regression of the same objective, by Newton's method.

  Its own L-BFGS is still far from the minimum of the smallest penalties when
  its tolerance ends it.
  """
  linear_model = pytest.importorskip("sklearn.linear_model")
  model = linear_model.LogisticRegression(
    C=1 / (penalty * len(labels)),
    solver="newton-cholesky",
    tol=1e-10,
    max_iter=500,
  )
  with warnings.catch_warnings():  # of steps that rounding ends
    warnings.simplefilter("ignore")
    return model.fit(np.asarray(features, np.float64), labels)
