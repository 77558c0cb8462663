"""Methods of self-supervised learning: one file each.

`method.Method` is their base class; `config.method` names one, or
`module:Class` of a user's module.
"""
