"""Owns other people's formats, in and out, and a page; each is a module, imported by name.

`from wavenet.interop import r9y9`. Knows nothing of training; `import wavenet` imports none of it.
"""
