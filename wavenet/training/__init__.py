"""Owns training with Lightning: the module, the data module, callbacks, the command, fused kernels.

`import wavenet` does not import it; it needs the extra `train`.
"""

from wavenet.installation import require

require("Training", "lightning", "jsonargparse", "tensorboard", "filelock", "tqdm")
