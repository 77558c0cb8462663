"""Random views of images: pure functions that run inside the train step.

Common to all functions: `images` are `[N, H, W, 3]` or, where there are no
colours to change, `[N, H, W, 1]`, uint8 or floating in [0, 1]; uint8 is divided
by 255, and the result is float32 in [0, 1]. `ValueError` refuses numbers out
of range where they are known; traced ones are taken as they are. Values given
per image (`factor`, `sigma`, `flip`) are scalars or `[N]`, and may be traced.
Pixels are what torchvision computes on PIL images, save that PIL rounds to
eight bits after every operation. Everything works under `jit`, `vmap`, `grad`,
`shard_map` and `pmap`; `ValueError` names an unfit shape.

    view = View(size=16, blur=0.5)
    views = random_view(jax.random.key(0), images, view)  # [N, 16, 16, 3]

`random_view` draws parameters and applies them; `return_parameters=True` hands
them out (`ViewParameters`), and `apply_view` makes the same views by them.
"""

from essl_jax.augment.arrays import fold_each
from essl_jax.augment.blur import gaussian_blur
from essl_jax.augment.color import (
  adjust_brightness,
  adjust_contrast,
  adjust_hue,
  adjust_saturation,
  normalize,
  solarize,
  to_grayscale,
)
from essl_jax.augment.geometry import (
  center_crop_resize,
  horizontal_flip,
  resized_crop,
  sample_crop_boxes,
)
from essl_jax.augment.parameters import ViewParameters, draw_parameters
from essl_jax.augment.random_views import apply_view, random_view
from essl_jax.augment.request import (
  DrawnView,
  ViewRequest,
  plain_view,
  window_name,
)
from essl_jax.augment.view import View
from essl_jax.inputs import keys_by_place

__all__ = (
  "DrawnView",
  "View",
  "ViewParameters",
  "ViewRequest",
  "adjust_brightness",
  "adjust_contrast",
  "adjust_hue",
  "adjust_saturation",
  "apply_view",
  "center_crop_resize",
  "draw_parameters",
  "fold_each",
  "gaussian_blur",
  "horizontal_flip",
  "keys_by_place",
  "normalize",
  "plain_view",
  "random_view",
  "resized_crop",
  "sample_crop_boxes",
  "solarize",
  "to_grayscale",
  "window_name",
)
