"""Random views of images: pure functions that run inside the train step.

All functions take `images` of shape `[N, H, W, 3]`, or `[N, H, W, 1]` where no
colours change, as uint8 or as floats in [0, 1]. They divide uint8 by 255 and
return float32 in [0, 1]. Values per image (`factor`, `sigma`, `flip`) are
scalars or `[N]`, and may be traced. Wrong shapes and known numbers out of range
raise `ValueError`; traced numbers are not checked. Pixels match torchvision on
PIL images, except that PIL rounds to eight bits after every operation.
Everything works under `jit`, `vmap`, `grad`, `shard_map` and `pmap`.

    view = View(size=16, blur=0.5)
    views = random_view(jax.random.key(0), images, view)  # [N, 16, 16, 3]

`random_view` draws parameters and applies them. With `return_parameters=True`
it also returns them (`ViewParameters`), and `apply_view` repeats the views.
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
