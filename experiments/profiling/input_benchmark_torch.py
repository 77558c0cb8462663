"""torchvision's side of input_benchmark.py; needs no JAX.

Arguments: image folder, batch, workers. The program first prints the versions,
then one JSON line about N batches for every line "crops N" or "views N" of
stdin. It ends without a line if torchvision cannot be imported.
"""

import json
import resource
import sys
import time

import numpy as np


def import_torchvision():
  """Imports torchvision, even if its compiled operators do not fit.

  Its transforms of PIL images are plain Python and do not use them; the import
  only needs the names of two.
  """
  import torch

  try:
    import torchvision
  except RuntimeError:
    for name in [n for n in sys.modules if n.startswith("torchvision")]:
      del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
      library.define(
        f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
      )
    import torchvision

    torchvision.kept = library
  return torch, torchvision


def make_views(transforms, kind):
  """The three views, as uint8 crops or with everything."""
  bicubic = transforms.InterpolationMode.BICUBIC
  crops = [
    transforms.RandomResizedCrop(224, scale=(0.08, 1), interpolation=bicubic),
    transforms.RandomResizedCrop(224, scale=(0.08, 1), interpolation=bicubic),
    transforms.RandomResizedCrop(96, scale=(0.05, 0.14)),
  ]
  flip = transforms.RandomHorizontalFlip()
  if kind == "crops":
    return [transforms.Compose([crop, flip, np.array]) for crop in crops]
  jitter = transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)
  return [
    transforms.Compose(
      [
        crop,
        flip,
        transforms.RandomApply([jitter], p=0.8),
        transforms.RandomGrayscale(0.2),
        transforms.RandomApply([transforms.GaussianBlur(23)], p=blur),
        transforms.RandomSolarize(128, p=solarize),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
      ]
    )
    for crop, blur, solarize in zip(
      crops, (1.0, 0.1, 0.1), (0.0, 0.2, 0.0), strict=True
    )
  ]


def cpu_seconds():
  """CPU seconds of this process and of workers that have ended."""
  usages = map(resource.getrusage, (resource.RUSAGE_SELF,))
  total = sum(usage.ru_utime + usage.ru_stime for usage in usages)
  children = resource.getrusage(resource.RUSAGE_CHILDREN)
  return total + children.ru_utime + children.ru_stime


def measure(torch, torchvision, root, batch, workers, kind, batches):
  """Times all batches after the first, and the CPU time of all."""
  views = make_views(torchvision.transforms, kind)
  images = torchvision.datasets.ImageFolder(
    root, lambda image: [view(image) for view in views]
  )
  # Exactly enough images for the wanted batches.
  wanted = (torch.randperm((batches + 1) * batch) % len(images)).tolist()
  before = cpu_seconds()
  loader = iter(
    torch.utils.data.DataLoader(
      torch.utils.data.Subset(images, wanted), batch, num_workers=workers
    )
  )
  next(loader)
  start = time.perf_counter()
  for _ in range(batches):
    next(loader)
  seconds = time.perf_counter() - start
  next(loader, None)  # the workers end
  del loader
  cpu = cpu_seconds() - before
  return {
    "images_per_second": batches * batch / seconds,
    "cpu_ms_per_image": 1e3 * cpu / len(wanted),
  }


def main():
  """Answers line by line."""
  root, batch, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
  try:
    torch, torchvision = import_torchvision()
  except ImportError:
    return
  versions = {
    "torch": torch.__version__,
    "torchvision": torchvision.__version__,
  }
  print(json.dumps(versions), flush=True)
  for line in sys.stdin:
    kind, batches = line.split()
    measured = measure(
      torch, torchvision, root, batch, workers, kind, int(batches)
    )
    print(json.dumps(measured), flush=True)


if __name__ == "__main__":
  main()
