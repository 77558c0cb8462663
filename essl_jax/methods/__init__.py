"""Methods of self-supervised learning, one file each.

`method.Method` is the base class. `config.method` selects a method by file
name, or as `module:Class` from a user's module.
"""
