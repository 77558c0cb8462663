"""Where a run is watched: one file for each logger that `config.loggers` names.

A logger of your own is `module:Name`, a subclass of `logger.Logger`.
"""
