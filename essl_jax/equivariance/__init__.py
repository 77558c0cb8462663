"""Equivariance terms: losses that make features sensitive to transformations.

`term.Term` is their base class. `config.terms` names them, or a user's own as
`module:Class`. Every term works with every method.
"""
