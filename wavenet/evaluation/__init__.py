"""Owns how good a model is: generated clips against real ones. Knows nothing of training."""
