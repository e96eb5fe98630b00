"""Owns other people's formats, in and out; each is a module of its own, imported by name."""
