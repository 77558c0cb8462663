"""The program `essl-jax`: trains, evaluates, embeds, reports, converts."""

import argparse
from collections.abc import Callable, Sequence
import difflib
import signal
import sys

import essl_jax
from essl_jax import arguments as arguments_lib
from essl_jax.errors import UsageError

PROGRAM = "essl-jax"


def _train(words: Sequence[str]) -> int:
  """Trains with a recipe and evaluates: --config=RECIPE[:VARIANT] [FLAGS]."""
  sys.argv = [f"{PROGRAM} train", *_long_help(words)]
  return _main()


def _evaluate(words: Sequence[str]) -> int:
  """Evaluates a run again, with its own config: RUN [--config.FIELD=VALUE]."""
  if _asks_help(words):
    print(_EVALUATE_HELP)
    return 0
  if words and words[0] != "--helpfull":
    run, *words = words
    if run.startswith("-"):
      raise UsageError(
        f"give the workdir of a run first: {PROGRAM} evaluate RUN {run}"
      )
    words = [f"--run={run}", "--config.mode=evaluate", *words]
  elif not words:
    raise UsageError(
      f"give the workdir of a run: {PROGRAM} evaluate RUN [FLAGS]"
    )
  sys.argv = [f"{PROGRAM} evaluate", *_long_help(words)]
  return _main()


_EVALUATE_HELP = f"""{PROGRAM} evaluate RUN [--config.FIELD=VALUE ...]

Evaluates a run again, with its own config unless a flag changes a field.

  RUN                       a run's workdir
  --config.mode=finetune    fine-tunes instead of evaluating
  --config.probe.epochs=10  sets a field of the config, as for any other field

{PROGRAM} evaluate RUN --help shows all fields of the run's config."""


def _asks_help(words: Sequence[str]) -> bool:
  return bool(words) and words[0] in ("-h", "-help", "--help", "help")


def _long_help(words: Sequence[str]) -> list[str]:
  return ["--help" if word == "-h" else word for word in words]


def _main() -> int:
  is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
  if is_usual:  # Ctrl-C during the import of JAX prints no stack trace
    signal.signal(signal.SIGINT, signal.SIG_DFL)
  from essl_jax import main

  if is_usual:
    signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    main.run()
  finally:
    if is_usual:  # no stack trace at exit either
      signal.signal(signal.SIGINT, signal.SIG_DFL)
  return 0


def _embed_parser() -> arguments_lib.Parser:
  parser = arguments_lib.Parser(
    prog=f"{PROGRAM} embed",
    description="Writes the features of images, as a run's evaluations see"
    " them.",
  )
  parser.add_argument(
    "source", metavar="RUN", help="a run's workdir, or *.safetensors weights"
  )
  parser.add_argument(
    "images", nargs="+", metavar="IMAGES", help="folders and files"
  )
  parser.add_argument(
    "--out", required=True, help="file to write: .npz, or .csv"
  )
  parser.add_argument(
    "--checkpoint", choices=("latest", "best"), default="latest"
  )
  parser.add_argument(
    "--batch-size",
    type=int,
    metavar="N",
    help="images at a time on all devices together (default: 256 per device)",
  )
  parser.add_argument("--overwrite", action="store_true")
  parser.add_argument(
    "--trust",
    action="store_true",
    help="allows *.safetensors to name your own encoder code and runs it",
  )
  _add_preprocessing(parser)
  return parser


def _embed(words: Sequence[str]) -> int:
  """Writes the features of images: RUN IMAGES... --out=FILE.npz|.csv."""
  options = _embed_parser().parse_args(words)
  if options.batch_size is not None:
    arguments_lib.check_least(options, 1, "batch_size")
  _start()
  from essl_jax.api import embeddings
  from essl_jax.devices import cpu, parallel

  cpu.choose_kernels()
  cpu.keep_compiled()
  parallel.all_devices()
  found = embeddings.of_paths(
    options.source,
    options.images,
    out=options.out,
    checkpoint=options.checkpoint,
    batch_size=options.batch_size,
    overwrite=options.overwrite,
    as_flags=True,
    trust=options.trust,
    **{name: getattr(options, name) for name in _PREPROCESSING},
  )
  count, width = found.features.shape
  print(f"wrote {options.out}: {count:,} images, {width} features each")
  return 0


_PREPROCESSING = ("image_size", "resize_size", "mean", "std", "white_level")


def _add_preprocessing(parser: argparse.ArgumentParser) -> None:
  """Adds flags for the preprocessing that older weights do not state."""
  group = parser.add_argument_group("for weights without their preprocessing")
  group.add_argument("--image-size", type=int, metavar="PIXELS")
  group.add_argument("--resize-size", type=int, metavar="PIXELS")
  for name in ("--mean", "--std"):
    group.add_argument(name, type=_numbers, metavar="R,G,B")
  group.add_argument(
    "--white-level",
    type=float,
    metavar="LEVEL",
    help="the value of white in images of more than eight bits",
  )


def _numbers(text: str) -> tuple[float, ...]:
  try:
    return tuple(float(x) for x in text.split(","))
  except ValueError as error:
    raise argparse.ArgumentTypeError(
      f"{text!r} must be numbers such as 0.5,0.5,0.5"
    ) from error


def _report(words: Sequence[str]) -> int:
  """Writes one page that compares runs: RUN [RUN ...]."""
  _start()
  from essl_jax.report import __main__ as program

  sys.argv = [f"{PROGRAM} report", *words]
  return program.run()


def _convert(words: Sequence[str]) -> int:
  """Imports PyTorch weights, exports runs, shows files: import|export|show."""
  _start()
  from essl_jax.convert import __main__ as program

  sys.argv = [f"{PROGRAM} convert", *words]
  return program.run()


def _recipes(words: Sequence[str]) -> int:
  """Lists the recipes, or describes one: [RECIPE]."""
  parser = arguments_lib.Parser(
    prog=f"{PROGRAM} recipes",
    description="Lists the recipes, or describes one.",
  )
  parser.add_argument("recipe", nargs="?", metavar="RECIPE")
  options = parser.parse_args(words)
  from essl_jax.config import recipes

  if options.recipe is None:
    titles = recipes.titles()
    longest = max(map(len, titles), default=0)
    for name, title in titles.items():
      print(f"{name:<{longest}}  {title}")
  elif options.recipe.partition(":")[0] in recipes.paths():
    print(recipes.about(options.recipe.partition(":")[0]))
  else:
    raise UsageError(
      f"there is no recipe {options.recipe!r}: {recipes.near(options.recipe)}"
    )
  return 0


def _start() -> None:
  import essl_jax.start  # noqa: F401


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
  "train": _train,
  "evaluate": _evaluate,
  "embed": _embed,
  "report": _report,
  "convert": _convert,
  "recipes": _recipes,
}


def _help() -> str:
  """Describes each command in one line."""
  lines = [f"{PROGRAM} COMMAND ...", ""]
  for name, function in COMMANDS.items():
    lines.append(f"  {name:<10}{function.__doc__}")
  return "\n".join([*lines, "", f"{PROGRAM} COMMAND --help shows its flags."])


@arguments_lib.tells_wrong_input
def run() -> int:
  """Runs the command that the command line names; returns the exit code."""
  words = sys.argv[1:]
  if not words or words[0] in ("-h", "--help", "help"):
    print(_help())
    return 0
  if words[0] == "--version":
    print(essl_jax.__version__)
    return 0
  if words[0] not in COMMANDS:
    close = difflib.get_close_matches(words[0], COMMANDS, 1)
    meant = f" (did you mean {close[0]}?)" if close else ""
    raise UsageError(
      f"there is no command {words[0]!r}{meant}; there are:"
      f" {', '.join(COMMANDS)}"
    )
  return COMMANDS[words[0]](words[1:])
