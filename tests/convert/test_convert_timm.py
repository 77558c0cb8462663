"""Comparisons with timm and torchvision; skipped without PyTorch."""

from convert_helpers import assert_same_tensors, convert, write_tree
from golden.weights import golden_state_dict
import jax
import numpy as np
import pytest
import safetensors.numpy

from essl_jax.models import vit
from essl_jax.storage import weights

torch = pytest.importorskip("torch", reason="needs the extra `torch`")


@pytest.fixture(scope="module")
def images():
  return np.random.default_rng(0).standard_normal((3, 48, 48, 3), np.float32)


def fill(model):
  """Sets a network's golden weights and returns them by name."""
  shapes = {name: list(x.shape) for name, x in model.state_dict().items()}
  tensors = golden_state_dict(shapes)
  model.load_state_dict({k: torch.from_numpy(x) for k, x in tensors.items()})
  return tensors


def features_of(model, images):
  """Computes features with PyTorch."""
  with torch.no_grad():
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    return model.eval()(pixels).numpy()


def features_here(path, images, **fields):
  """Computes features with converted weights."""
  variables, metadata = weights.load(path)
  own = {k: x["encoder"] for k, x in variables.items() if "encoder" in x}
  model = vit.ViT(**metadata["encoder"] | {"name": None} | fields)
  return jax.jit(lambda own, x: model.apply(own, x, train=False))(own, images)


def timm_model(**fields):
  timm = pytest.importorskip("timm", reason="needs timm")
  common = {"img_size": 48, "patch_size": 8, "embed_dim": 48, "depth": 3}
  return timm.create_model(
    "vit_tiny_patch16_224",
    pretrained=False,
    num_classes=0,
    **common | {"num_heads": 3} | fields,
  )


def assert_close(actual, expected):
  scale = np.abs(expected).max()
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize(
  "fields",
  [{}, {"global_pool": "avg"}, {"mlp_ratio": 2.5, "num_heads": 4}],
  ids=str,
)
def test_timms_features_and_files(fields, images, tmp_path):
  """Imported features equal timm's, and timm reads its weights back."""
  model = timm_model(**fields)
  before = fill(model)
  source, flax_file = tmp_path / "timm.pth", tmp_path / "flax.safetensors"
  torch.save({"state_dict": model.state_dict()}, source)
  heads = fields.get("num_heads", 3)
  convert(source, flax_file, f"--attention-heads={heads}")
  expected = features_of(model, images)
  assert_close(features_here(flax_file, images), expected)

  output = tmp_path / "out.safetensors"
  convert("export", flax_file, output, "--format=torch")
  after = safetensors.numpy.load_file(output)
  assert_same_tensors(after, before)
  other = timm_model(**fields)
  other.load_state_dict({k: torch.from_numpy(x) for k, x in after.items()})
  np.testing.assert_array_equal(features_of(other, images), expected)


def test_other_sizes_have_timms_features(images, tmp_path):
  """On loading, timm interpolates positions; here the model does."""
  small = timm_model(img_size=32)
  tensors = fill(small)
  write_tree(tmp_path / "timm.pth", tensors)
  output = tmp_path / "flax.safetensors"
  convert(tmp_path / "timm.pth", output, "--attention-heads=3")
  from timm.layers import resample_abs_pos_embed

  large = timm_model()
  state = small.state_dict()
  state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], [6, 6])
  large.load_state_dict(state)
  assert_close(features_here(output, images), features_of(large, images))


def test_fixed_positions_are_read_by_timm(images, tmp_path):
  model = vit.ViT(
    image_size=48, patch=8, width=48, depth=3, heads=3, positions="sincos"
  )
  variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(
    images
  )
  path, output = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
  names = ("image_size", "patch", "width", "depth", "heads", "pool")
  encoder = {"name": "vit"} | {name: getattr(model, name) for name in names}
  weights.save(
    path,
    {"params": {"encoder": variables["params"]}},
    {"encoder": encoder, "source": "test"},
  )
  convert("export", path, output, "--format=torch")
  other = timm_model()
  tensors = safetensors.numpy.load_file(output)
  other.load_state_dict({k: torch.from_numpy(x) for k, x in tensors.items()})
  actual = features_here(path, images, positions="sincos")
  assert_close(actual, features_of(other, images))


def test_torchvisions_features(images, tmp_path):
  torchvision = pytest.importorskip("torchvision", reason="needs torchvision")
  model = torchvision.models.VisionTransformer(
    image_size=48,
    patch_size=8,
    num_layers=2,
    num_heads=3,
    hidden_dim=48,
    mlp_dim=192,
  )
  tensors = fill(model)
  model.heads = torch.nn.Identity()
  source, output = tmp_path / "vit.pth", tmp_path / "flax.safetensors"
  torch.save({k: torch.from_numpy(x) for k, x in tensors.items()}, source)
  convert(source, output, "--attention-heads=3")
  assert_close(features_here(output, images), features_of(model, images))


@pytest.mark.parametrize(
  ("name", "heads"),
  [
    ("vit_tiny_patch16_224", 3),
    ("vit_small_patch16_224", 6),
    ("vit_base_patch16_224", 12),
    ("vit_large_patch16_224", 16),
    ("vit_huge_patch14_224", 16),
  ],
)
def test_known_widths_have_timms_heads(name, heads, tmp_path):
  """One block is enough: all blocks have the same heads."""
  timm = pytest.importorskip("timm", reason="needs timm")
  model = timm.create_model(
    name, pretrained=False, num_classes=0, depth=1, img_size=28, patch_size=14
  )
  assert model.blocks[0].attn.num_heads == heads
  source, output = tmp_path / "timm.pth", tmp_path / "flax.safetensors"
  torch.save(model.state_dict(), source)
  convert(source, output)
  assert weights.load(output)[1]["encoder"]["heads"] == heads


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("deit_tiny_distilled_patch16_224", "a distillation token"),
    ("vit_small_patch14_reg4_dinov2", "register tokens.*scaled layers"),
    (
      "beit_base_patch16_224",
      "separate biases of queries and values.*relative positions",
    ),
    ("vit_base_patch16_clip_224", "a norm before its blocks, like CLIP's"),
    ("swin_tiny_patch4_window7_224", "relative positions"),
    ("vit_base_patch16_siglip_224", "attention instead of a class token"),
    ("convnext_tiny", "no ResNet or ViT in it"),
    ("vit_small_resnet26d_224", "a convolutional network instead"),
    ("mixer_s16_224", "no ResNet or ViT in it"),
    ("cait_xxs24_224", "scaled layers"),
    (
      "vit_base_patch16_rpn_224",
      "missing tensors: cls_token|relative positions",
    ),
    ("eva02_tiny_patch14_224", "separate biases of queries"),
  ],
)
def test_other_architectures_are_one_line(name, message, tmp_path):
  timm = pytest.importorskip("timm", reason="needs timm")
  from essl_jax.errors import UsageError

  with torch.device("meta"):
    shapes = timm.create_model(name, pretrained=False).state_dict()
  tensors = {
    key: np.zeros(x.shape if "embed" in key else (1,), np.float32)
    for key, x in shapes.items()
  }
  write_tree(tmp_path / "timm.pth", tensors)
  with pytest.raises(UsageError, match=message) as error:
    convert(tmp_path / "timm.pth", tmp_path / "out.safetensors")
  assert "\n" not in str(error.value)
  assert not (tmp_path / "out.safetensors").exists()
