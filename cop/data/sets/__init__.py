"""One module per data set. Each registers itself (`cop.data.images.dataset`), and every module of this folder is imported."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
