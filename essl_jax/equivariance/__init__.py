"""Equivariance terms: what features have to tell about a transformation.

`term.Term` is what a term is asked; `config.terms` names them, or
`module:Class` of anybody's own. Every term works with every method.
"""
