"""Owns training with Lightning: the module, the data module, callbacks, the command, fused kernels.

`import wavenet` does not import it; it needs lightning and torchaudio.
"""
