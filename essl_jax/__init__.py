"""Equivariant self-supervised learning (E-SSL) in JAX.

Reference: Dangovski et al., "Equivariant Self-Supervised Learning: Encouraging
Equivariance in Representations", ICLR 2022 (arXiv 2111.00899).
"""

__version__ = "0.1.0"
