"""The Python interface of `essl_jax`: runs, encoders, features of images."""
