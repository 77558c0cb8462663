"""Loggers show a run: one file for each that `config.loggers` can name.

Name your own logger `module:Name`; it is a subclass of `logger.Logger`.
"""
