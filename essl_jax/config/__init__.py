"""Configs: typed fields, defaults and variants of recipes, command-line flags.

A recipe begins with `base()`, sets what differs and returns a `ConfigDict`;
`parse` turns it into a typed `Config`.
"""

from essl_jax.config.config import (
  Config,
  Data,
  Encoder,
  Measures,
  Optimizer,
  Views,
)
from essl_jax.config.parsing import (
  base,
  defaults,
  encoder_fields,
  evaluated_network,
  evaluations,
  free_fields,
  loggers,
  method,
  parse,
  ranking_figure,
  source_fields,
  terms,
  to_dict,
)
from essl_jax.config.schema import encoder, schema
from essl_jax.config.variants import (
  exclusive,
  option,
  term_variants,
  update_views,
  use_term,
  variants,
)

__all__ = [
  "Config",
  "Data",
  "Encoder",
  "Measures",
  "Optimizer",
  "Views",
  "base",
  "defaults",
  "encoder",
  "encoder_fields",
  "evaluated_network",
  "evaluations",
  "exclusive",
  "free_fields",
  "loggers",
  "method",
  "option",
  "parse",
  "ranking_figure",
  "schema",
  "source_fields",
  "term_variants",
  "terms",
  "to_dict",
  "update_views",
  "use_term",
  "variants",
]
