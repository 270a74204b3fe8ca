"""cop: a reproducible companion to *The Collapse of Patches* (arXiv 2511.22281).

The public names are imported on first use, so that `import cop` is quick.
"""

import importlib

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


def __getattr__(name: str):
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'cop' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
