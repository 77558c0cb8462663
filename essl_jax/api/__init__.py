"""What `import essl_jax` offers: runs, encoders and features of images."""
