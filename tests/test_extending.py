"""The blocks of docs/extending.md, run as they stand there, and wrong parts."""

import json
import pathlib
import re
import sys

import jax
import numpy as np
import pytest

from essl_jax import config as config_lib
from essl_jax import run as run_lib
from essl_jax.config import flags
from essl_jax.data import ArraySource
from essl_jax.devices import parallel
from essl_jax.errors import UsageError
from essl_jax.evaluation import bench as bench_lib
from essl_jax.evaluation import transformation
from essl_jax.training import experiment as experiment_lib

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "extending.md"
MOST_LINES = 30
TERMS = "--config.terms=('prediction','my_idea:Brightness')"


def _blocks():
  text = PAGE.read_text(encoding="utf-8")
  return re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """The files of the page, in a folder of their own."""
  made = tmp_path_factory.mktemp("extending")
  for name, code in _blocks():
    with (made / name).open("a", encoding="utf-8") as file:
      file.write(code)
  yield made
  sys.modules.pop("my_idea", None)
  sys.path[:] = [x for x in sys.path if x != str(made)]


def test_blocks_are_short():
  lengths = [len(code.strip().splitlines()) for _, code in _blocks()]
  assert len(lengths) == 7
  assert max(lengths) <= MOST_LINES


@pytest.fixture(scope="module")
def workdir(folder):
  """A run of all parts together, on one device."""
  recipe, made = str(folder / "my_recipe.py"), folder / "run"
  config = flags.load(
    recipe,
    [TERMS, "--config.epochs=2", "--config.spread=0.5", "--config.width=16"],
  )
  run_lib.run(config, made)
  return made


def test_parts_train_evaluate_and_are_shown(workdir, capsys):
  results = json.loads((workdir / "results.json").read_text())
  assert results["step"] == 12
  assert results["config"]["method"] == "my_idea:MyMethod"
  assert (results["config"]["spread"], results["config"]["width"]) == (0.5, 16)
  figures = results["figures"]
  assert set(figures) == {
    "knn",
    "linear_probe",
    "transformation",
    "my_measure",
  }
  assert figures["my_measure"]["norm"] > 0
  (row,) = results["rows"]["my_measure"]
  assert row[0] == "Mean norm of test features"
  last = results["training"]["last_step"]
  assert {"loss_equivariance", "loss_brightness", "brightness_error"} <= set(
    last
  )
  assert last["embedding_std"] > 0


def test_a_finished_run_is_evaluated_again(folder, workdir, capsys):
  """Fields of evaluations may change, fields of the method may not."""
  recipe = str(folder / "my_recipe.py")
  words = [TERMS, "--config.epochs=2", "--config.width=16"]
  again = [*words, "--config.spread=0.5", "--config.my_measure.order=1.0"]
  again += ["--config.evaluations=my_idea:MyMeasure", "--config.mode=evaluate"]
  before = json.loads((workdir / "results.json").read_text())
  run_lib.run(flags.load(recipe, again), workdir)
  results = json.loads((workdir / "results.json").read_text())
  assert results["figures"].pop("my_measure")["order"] == 1.0
  assert "order 1" in capsys.readouterr().out
  # Figures of other evaluations stay.
  assert before["figures"].pop("my_measure")["order"] == 2.0
  assert results["figures"] == before["figures"]
  assert results["untrained"] == before["untrained"]
  assert set(results["rows"]) == set(before["rows"])
  # The groups of one's own evaluations are absent where others are chosen.
  few = ["--config.evaluations=knn", "--config.mode=evaluate"]
  run_lib.run(
    flags.load(recipe, [*words, "--config.spread=0.5", *few]), workdir
  )
  with pytest.raises(UsageError, match="spread is 0.5 there, 0.7 here"):
    run_lib.run(flags.load(recipe, [*words, "--config.spread=0.7"]), workdir)


def test_help_lists_the_fields_of_ones_own_parts(folder):
  recipe = str(folder / "my_recipe.py")
  values = flags.raw(recipe, [TERMS])
  lines = "\n".join(flags.describe(config_lib.schema(values), values))
  for flag, text in (
    ("--config.spread=1.0", "weight of the contrast between images"),
    ("--config.encoder.width=16", "channels of the first"),
    ("--config.data.noise=60", "largest level of the background"),
    ("--config.my_measure.order=2.0", "of the norm"),
    ("--config.brightness.least=0.3", "factor of the darkest images"),
  ):
    assert f"{flag}\n" in lines
    assert text in lines


def _term(name):
  return f"--config.terms=('wrong:{name}',)"


def _group(name, module="wrong"):
  return f"--config.equivariance.group={module}:{name}"


WRONG = {
  "module": ("--config.method=nowhere:Method", "there is no module nowhere"),
  "name": ("--config.method=my_idea:Mine", "my_idea has no Mine; it has"),
  "kind": ("--config.method=my_idea:GROUP", "a method must be a subclass of"),
  "encoder": ("--config.encoder.name=my_idea:MyMethod", "an encoder must be"),
  "source": ("--config.data.name=my_idea:MyEncoder", "must be a function"),
  "evaluation": ("--config.evaluations=my_idea:GROUP", "an evaluation must be"),
  "group": ("--config.equivariance.group=my_idea:MyMethod", "must be a Trans"),
  "field": ("--config.sprad=1.0", "config.sprad (did you mean spread?)"),
  "bound": ("--config.spread=0.0", "config.spread must be above 0; got 0.0"),
  "incomplete": (
    "--config.method=wrong:NoLoss",
    "does not define loss, make_heads",
  ),
  "features": ("--config.encoder.name=wrong:Maps", "must be [2, F], and are"),
  "scalar": ("--config.method=wrong:Rows", "the loss must be one number"),
  "fails": ("--config.method=wrong:Fails", "KeyError: 'nothing'"),
  "broken": ("--config.method=broken:Method", "broken cannot be imported"),
  "empty": ("--config.method=empty:Method", "empty has no Method; it has no"),
  "exit": ("--config.method=exits:Method", "imported: SystemExit: 0"),
  "exit of a group": ("--config.equivariance.group=exits:G", "(SystemExit: 0)"),
  "exit of a source": ("--config.data.name=wrong:exiting", "SystemExit: 0"),
  "source field": (
    "--config.data.name=wrong:resized",
    "config.data.image_size exists already",
  ),
  "requests": (
    "--config.method=wrong:NoRequests",
    "NoRequests.requests must return a list of ViewRequests, and returns None",
  ),
  "words": ("--config.method=wrong:Words", "returns ['first']"),
  "head": (
    "--config.method=wrong:Taken",
    "a head encode, a name that Networks",
  ),
  "heads": (
    "--config.method=wrong:NoHeads",
    "must return a dict of Flax modules by name",
  ),
  "hook": ("--config.method=wrong:Shadow", "loss cannot be a field"),
  "frozen": (
    "--config.encoder.name=wrong:Frozen",
    "to freeze is named encoder/nothing; there are: encoder/Conv_0",
  ),
  "unknown view": (_term("Unknown"), "Unknown.requests: AttributeError"),
  "constructor": (
    _term("Raises"),
    "config.terms=wrong:Raises: RuntimeError: never",
  ),
  "keyword": (_term("Keyword"), "asks for the view 'class', which cannot be"),
  "number": (_term("Number"), "asks for the view 3, which cannot be"),
  "space": (_term("Space"), "asks for the view 'my view', which cannot be"),
  "views": (_term("Text"), "views must be a tuple of names"),
  "taken view": (_term("Resolution"), "config.views.resolution is another"),
  "dot": (_term("Dot"), "has the field 'a.b', which cannot be"),
  "section": (_term("Section"), "has the field views, but so has every config"),
  "type": (_term("Untyped"), "the types of Untyped: NameError"),
  "default": (_term("Default"), "config.default.depth must be int, got 'many'"),
  "default bound": (_term("Low"), "config.low.depth must be at least 1; got 0"),
  "metric": (_term("Vector"), "rows must be one number, and has shape (16,)"),
  "metric name": (_term("Ssl"), "Ssl.loss: the metric loss_ssl exists"),
  "term": (_term("Seeks"), "Seeks.forward: KeyError: 'nothing'"),
  "term heads": (_term("Headless"), "Headless.make_heads: RuntimeError"),
  "no weight": (
    "--config.method=none --config.terms=('my_idea:Brightness',)"
    " --config.brightness.weight=0.0",
    "set config.brightness.weight above 0",
  ),
  "groups": (_term("Named"), "Named.groups must be TransformationGroups"),
  "transform": (
    _term("Alone"),
    "pixels: the transform must return (images, targets): change config.alone",
  ),
  "identity": (_group("TURNED"), "element 0 must be the identity"),
  "equal elements": (_group("EQUAL"), "elements 1 and 2 do the same"),
  "shape": (_group("CUT"), "]: change config.equivariance"),
  "dtype": (_group("WHOLE"), "but returns int32[1,16,16,3]"),
  "side": (_group("THIRDS"), ": set config.views.third.size to fit or change"),
  "element names": (
    _group("NAMES", "named"),
    "need as many different element_names",
  ),
}
PARTS = '''
import sys
import flax.linen as nn
import jax.numpy as jnp
import my_idea
from essl_jax.augment import ViewRequest
from essl_jax.config import bounds
from essl_jax.methods.method import Method
from essl_jax.transformations import TransformationGroup

def exiting(data):
  sys.exit(0)

def resized(data, *, image_size: int = 8):
  return my_idea.open_source(data)

class NoLoss(Method):
  """Incomplete."""
  def forward(self, heads, features):
    return features

class Maps(nn.Module):
  """Features that are not pooled."""
  @nn.compact
  def __call__(self, images):
    return nn.Conv(4, (3, 3))(images)

class Rows(my_idea.MyMethod):
  """A loss for every image."""
  def loss(self, outputs, *, axis_name=None):
    return outputs.own["projections"][0].sum(axis=1)

class Fails(my_idea.MyMethod):
  """Looks for what is not there."""
  def forward(self, heads, features):
    return features["nothing"]

class NoRequests(my_idea.MyMethod):
  def requests(self, views):
    pass

class Words(my_idea.MyMethod):
  def requests(self, views):
    return ["first"]

class Taken(my_idea.MyMethod):
  def make_heads(self, **common):
    return {"encode": nn.Dense(8)} | super().make_heads(**common)

class NoHeads(my_idea.MyMethod):
  def make_heads(self, **common):
    pass

class Shadow(my_idea.MyMethod):
  loss: float = 1.0

class Frozen(my_idea.MyEncoder):
  frozen_parameters = ("nothing",)

class Unknown(my_idea.Brightness):
  def requests(self, views):
    return [ViewRequest("darkened", views.nothing)]

class Raises(my_idea.Brightness):
  def __post_init__(self):
    raise RuntimeError("never")

class Keyword(my_idea.Brightness):
  views = ("first", "class")

class Number(my_idea.Brightness):
  views = (3,)

class Space(my_idea.Brightness):
  views = ("my view",)

class Text(my_idea.Brightness):
  views = "first"

class Resolution(my_idea.Brightness):
  views = ("first", "resolution")

class Dot(my_idea.Brightness):
  section = "a.b"

class Section(my_idea.Brightness):
  section = "views"

class Untyped(my_idea.Brightness):
  depth: "Undefined" = 1

class Default(my_idea.Brightness):
  depth: int = "many"

class Low(my_idea.Brightness):
  depth: bounds.Count = 0

class Vector(my_idea.Brightness):
  def loss(self, outputs, targets, *, axis_name=None):
    return jnp.mean(outputs), {"rows": outputs}

class Ssl(my_idea.Brightness):
  section = "ssl"

class Seeks(my_idea.Brightness):
  def forward(self, heads, features, targets):
    return features["nothing"]

class Headless(my_idea.Brightness):
  def make_heads(self, **common):
    raise RuntimeError("no head")

class Named(my_idea.Brightness):
  groups = ("rotation",)

class Alone(my_idea.Brightness):
  def darken(self, images, keys):
    return images

same, turn = lambda x: x, lambda x: jnp.rot90(x, 1, (1, 2))
TURNED = TransformationGroup("turned", (turn, same))
EQUAL = TransformationGroup("equal", (same, turn, turn))
CUT = TransformationGroup("cut", (same, lambda x: x[:, 1:]))
WHOLE = TransformationGroup("whole", (same, lambda x: x.astype(int)))
THIRDS = TransformationGroup(
  "thirds", (same, lambda x: jnp.concatenate(jnp.split(x, 3, 1)[::-1], 1))
)
'''
NAMED = """
from essl_jax.transformations import TransformationGroup
NAMES = TransformationGroup("n", (abs, abs), element_names=("same", "same"))
"""


@pytest.mark.parametrize("name", WRONG)
def test_wrong_parts_are_refused_in_one_line(name, folder):
  (folder / "wrong.py").write_text(PARTS)
  (folder / "broken.py").write_text("1 / 0\n")
  (folder / "empty.py").write_text("")
  (folder / "exits.py").write_text("import sys\nsys.exit(0)\n")
  (folder / "named.py").write_text(NAMED)
  words, expected = WRONG[name]
  with pytest.raises(UsageError) as error:
    experiment_lib.build(
      flags.load(str(folder / "my_recipe.py"), words.split())
    )
  assert expected in str(error.value)
  assert "\n" not in str(error.value)


SOURCE = ArraySource(
  np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3)).astype(np.uint8),
  np.arange(32) % 4,
  np.zeros((8, 16, 16, 3), np.uint8),
  np.arange(8) % 4,
)


def _step(config):
  """The experiment and the metrics of one step on one device."""
  mesh = parallel.make_mesh(jax.devices()[:1])
  experiment = experiment_lib.build(config, SOURCE, mesh)
  batch = next(experiment.batches(0))
  _, metrics = experiment.make_step()(experiment.create_state(), batch)
  return experiment, jax.device_get(metrics)


def test_views_of_any_number_and_size(tmp_path, monkeypatch):
  """Two large views, one plain one and two small ones of one config view."""
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / "crops.py").write_text(
    '''
import jax.numpy as jnp
from essl_jax.augment import ViewRequest, plain_view
from essl_jax.methods.simclr import SimCLR

class Crops(SimCLR):
  """Small views learn from the first two."""
  views = ("first", "second", "small")

  def requests(self, views):
    two = super().requests(views)[:2]
    small = [ViewRequest(f"small_{i}", views.small) for i in range(2)]
    plain = ViewRequest("plain", plain_view(views.first, 12))
    same = ViewRequest("again", views.first, extra=views.extra, draw_of="first")
    return [*two, *small, plain, same]

  def forward(self, heads, features):
    found = super().forward(heads, features)
    order = ("small_0", "small_1", "plain", "again", "first")
    rest = {x: heads["projector"](features[x]) for x in order}
    return found | rest

  def metrics(self, outputs, mean):
    own = outputs.own
    apart = lambda a, b: jnp.abs(own[a] - own[b]).max()
    return {
      "same": apart("again", "first"),
      "small": apart("small_0", "small_1"),
      "plain": apart("plain", "first"),
    }
'''
  )
  raw = {
    "method": "crops:Crops",
    "batch_size": 8,
    "data": {"name": "digits"},
    "views": {"small": {"size": 8}},
    "encoder": {"width": 4, "stem": "cifar", "blocks": (1,)},
    "projector": {"widths": (16,)},
    "equivariance": {"weight": 0.0},
  }
  config = config_lib.parse(raw)
  experiment, metrics = _step(config)
  sizes = {x.name: x.view.size for x in experiment.requests}
  assert sizes == {
    "first": 32,
    "second": 32,
    "small_0": 8,
    "small_1": 8,
    "plain": 12,
    "again": 32,
  }
  assert experiment.encodings_per_image == 6
  assert metrics["same"] == 0, "a shared draw is the same view"
  assert metrics["small"] > 0.01 and metrics["plain"] > 0.01


def test_a_term_that_regresses_an_angle_beside_the_prediction(
  tmp_path, monkeypatch, tiny_config
):
  """Two terms at once: their losses add up with their weights."""
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / "angles.py").write_text(
    '''
import jax
import jax.numpy as jnp
from essl_jax.augment import ViewRequest
from essl_jax.equivariance.term import Term
from essl_jax.models import heads

class Angle(Term):
  """Regresses the continuous angle by which colours were turned."""
  views = ("second",)

  def requests(self, views):
    return [ViewRequest("turned", views.second, transform=self.turn)]

  def turn(self, images, keys):
    angle = jax.vmap(lambda k: jax.random.uniform(k, (), maxval=jnp.pi))(keys)
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    red, green, blue = jnp.moveaxis(images, -1, 0)
    cosine, sine = cosine[:, None, None], sine[:, None, None]
    turned = (red * cosine - green * sine, red * sine + green * cosine, blue)
    return jnp.stack(turned, axis=-1), angle

  def make_heads(self, **common):
    return {"angle_head": heads.MLP((8, 1), **common)}

  def forward(self, heads, features, targets):
    return heads["angle_head"](features["turned"])[:, 0]

  def loss(self, outputs, targets, *, axis_name=None):
    return jnp.mean((outputs - targets["turned"]) ** 2), {}
'''
  )
  small = {
    "encoder": {"blocks": (1,)},
    "projector": {"widths": (16,)},
    "equivariance": {"hidden_widths": (16,)},
  }
  both = {"terms": ("prediction", "angles:Angle"), "angle": {"weight": 0.25}}
  config = tiny_config("simclr", **small, **both)
  _, metrics = _step(config)
  total = metrics["loss_ssl"] + 0.4 * metrics["loss_equivariance"]
  total += 0.25 * metrics["loss_angle"]
  np.testing.assert_allclose(metrics["loss"], total, rtol=1e-6)
  assert metrics["loss_angle"] > 0.1
  alone = tiny_config("simclr", **small)
  _, before = _step(alone)
  # Another term's draws do not move those of the others.
  np.testing.assert_allclose(before["loss_ssl"], metrics["loss_ssl"], rtol=1e-5)


def test_two_predictions_are_measured_each_on_its_view(
  tmp_path, monkeypatch, tiny_config
):
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / "flipped.py").write_text(
    '''
from essl_jax.equivariance.prediction import Prediction

class Flipped(Prediction):
  """Which flip was applied to the second view."""
  section = "flipped"
  views = ("second",)
  view_name = "flipped"
  head_name = "flip_head"
  group: str = "vertical_flip"
'''
  )
  config = tiny_config(
    "simclr",
    terms=("prediction", "flipped:Flipped"),
    flipped={"hidden_widths": (16,)},
    probe={"batch_size": 32},
  )
  experiment, metrics = _step(config)
  assert {"loss_flipped", "flipped_accuracy", "equivariance_accuracy"} <= set(
    metrics
  )
  assert [x.shown for x in experiment.networks.terms] == [
    ("equivariance_accuracy",),
    ("flipped_accuracy",),
  ]
  sizes, networks = [], type(experiment.networks)
  apply = networks.apply

  def spy(self, variables, number, images, *rest, **options):
    sizes.append((number, {k: x.shape[1] for k, x in images.items()}))
    return apply(self, variables, number, images, *rest, **options)

  bench, measure = bench_lib.make(experiment), transformation.Transformation()
  state = experiment.create_state()
  with monkeypatch.context() as patched:
    patched.setattr(networks, "apply", spy)
    found = measure.run(bench, state)
  assert sizes == [(0, {"transformed": 8}), (1, {"flipped": 16})]
  second = found.pop("flipped")
  assert (found["group"], len(found["per_element"])) == ("rotation", 4)
  assert (second["group"], len(second["per_element"])) == ("vertical_flip", 2)
  assert found["augmentation"] == "one third-view crop an image"
  assert second["augmentation"] == "one second-view crop an image"
  titles = [row.title for row in measure.rows(found | {"flipped": second})]
  assert titles == [
    "Transformation prediction accuracy",
    "Transformation prediction accuracy, flipped",
  ]
  bench.at_random = ("transformation_head",)
  assert measure.run(bench, state) == {"flipped": second}


def test_a_vision_transformer_trains_with_adamw(tiny_config):
  """No batch norm in the encoder, stochastic depth, views of two sizes."""
  config = tiny_config(
    "simclr",
    encoder={
      "name": "vit",
      "image_size": 16,
      "patch": 4,
      "width": 16,
      "depth": 2,
      "heads": 2,
      "stochastic_depth": 0.2,
    },
    optimizer={"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.1},
  )
  mesh = parallel.make_mesh(jax.devices()[:2])
  experiment = experiment_lib.build(config, SOURCE, mesh)
  state, step = experiment.create_state(), experiment.make_step()
  assert "encoder" not in state.batch_stats
  batches, losses = experiment.batches(0), []
  for _ in range(12):
    state, metrics = step(state, next(batches))
    losses.append(float(metrics["loss"]))
  assert np.all(np.isfinite(losses))
  assert np.mean(losses[-3:]) < np.mean(losses[:3])
  assert "AdamW (0.9, 0.999)" in "\n".join(experiment.describe(state.params))
