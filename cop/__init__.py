"""cop: a reproducible companion to *The Collapse of Patches* (arXiv 2511.22281).

The public names are imported on first use, so that `import cop` is quick.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what a type checker knows of the names below
    from cop.data.inputs import read_images as read_images
    from cop.data.loading import load_data as load_data
    from cop.lessons.classification import classifier as classifier
    from cop.lessons.look import look as look
    from cop.lessons.pipeline import comae as comae
    from cop.lessons.pipeline import tokenizer as tokenizer
    from cop.lessons.ranks import rank as rank
    from cop.orders import collapse_order as collapse_order
    from cop.paper.comae import CoMAE as CoMAE
    from cop.paper.cvit import CViT as CViT
    from cop.paper.entropy import TokenPredictor as TokenPredictor
    from cop.paper.onepass import OnePass as OnePass
    from cop.paper.ranking import pagerank as pagerank
    from cop.profiles import get_profile as get_profile

_WHERE = {
    "rank": "cop.lessons.ranks",
    "look": "cop.lessons.look",
    "read_images": "cop.data.inputs",
    "load_data": "cop.data.loading",
    "get_profile": "cop.profiles",
    "comae": "cop.lessons.pipeline",
    "tokenizer": "cop.lessons.pipeline",
    "classifier": "cop.lessons.classification",
    "CoMAE": "cop.paper.comae",
    "TokenPredictor": "cop.paper.entropy",
    "OnePass": "cop.paper.onepass",
    "CViT": "cop.paper.cvit",
    "pagerank": "cop.paper.ranking",
    "collapse_order": "cop.orders",
}
__all__ = list(_WHERE)
__version__ = "0.1.0"


if not TYPE_CHECKING:

    def __getattr__(name: str):
        if name in _WHERE:
            return getattr(importlib.import_module(_WHERE[name]), name)
        raise AttributeError(f"module 'cop' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
