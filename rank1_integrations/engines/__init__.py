"""Engines: tokens in; tokens and label log-probabilities out."""
