"""Prints the page of all fields: `python -m essl_jax.config`."""

from essl_jax.config import page

if __name__ == "__main__":
  print(page.page(), end="")
