"""Ways to ask for the same harmful thing otherwise, and the search for those that get through.

``transforms`` lists them; each family has a file (``paraphrases``, ``framing`` for role-play and
prefix injection, ``encodings``, ``typos``, ``translations``). ``wrapping`` makes the built-in
prompt set ``jailbreak``, ``search`` looks for prompts that only the compressed model answers. All
wording is this project's own. Nothing here imports torch.
"""

from __future__ import annotations

from .model import Transform
from .transforms import TRANSFORMS, transform_named
from .wrapping import plain_id, transform_of, wrapped

__all__ = ["TRANSFORMS", "Transform", "plain_id", "transform_named", "transform_of", "wrapped"]
