"""Equivariance terms: losses that make features tell a transformation.

`term.Term` is their base class; `config.terms` names them, or `module:Class`
of a user's module. Every term works with every method.
"""
