"""Methods of self-supervised learning: one file each.

`method.Method` is what a method is asked; `config.method` names one, or
`module:Class` of anybody's own.
"""
