"""The registry of orders: each is one function, with a decorator that states what everything else must know of it.

    from cop.orders import collapse_order, order

    @order("darkest", needs="pixels", colour="#554433")
    def darkest(batch):
        return collapse_order(-batch.patches.mean(-1))

The function gets a batch of images, whose attributes are computed when they are asked for (`cop.lessons.ordering.Batch`
lists them), and returns a ranking: LongTensor (B, N), or (N,) for an order that is one for all images. Files named in the
environment variable `COP_ORDERS` (several are separated as in PATH) are executed before the registry is first read, so
that an order in such a file stands in the notebooks, in `cop.rank` and on the command line beside those of
`cop.orders.entries`.
"""

import hashlib
import inspect
import os
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from cop.orders.permutations import check_ranking

NEEDS = ("nothing", "comae", "pixels", "classifier", "predictor", "measured")
MIRROR = ("stays", "moves", "own")
TRAINED = ("every seed", "seed 0", "never")


@dataclass(frozen=True)
class Order:
    """An order and its properties; see `order`. Called with a batch of images it returns their rankings (B, N)."""

    name: str
    function: Callable
    needs: str = "pixels"
    looks: bool | None = None
    shared: bool = False
    mirror: str | None = None
    trained: str = "every seed"
    stored: bool = False
    settings: str | None = None
    version: int = 1
    colour: str = "#2b2b33"
    dash: str = "-"
    width: float = 1.6

    def __post_init__(self):
        fill = {"looks": self.needs != "nothing" and not self.shared, "mirror": "stays" if self.shared else "moves"}
        for field, default in fill.items():
            if getattr(self, field) is None:
                object.__setattr__(self, field, default)
        for field, known in (("needs", NEEDS), ("mirror", MIRROR), ("trained", TRAINED)):
            if getattr(self, field) not in known:
                raise ValueError(f"order {self.name!r}: {field} is {getattr(self, field)!r}; expected one of {', '.join(known)}")

    def __call__(self, batch) -> Tensor:
        found, N = self.function(batch), batch.num_tokens
        if not isinstance(found, Tensor):
            raise ValueError(f"order {self.name!r} returns a {type(found).__name__}; expected a LongTensor (B, {N}) or ({N},)")
        try:
            found = check_ranking(found.cpu(), N)
        except ValueError as error:
            raise ValueError(f"order {self.name!r}: {error}") from None
        if found.ndim == 2 and (self.shared or len(found) != batch.count):
            want = f"one ranking ({N},)" if self.shared else f"({batch.count}, {N})"
            raise ValueError(f"order {self.name!r} returns {tuple(found.shape)} for {batch.count} images; expected {want}")
        return found.expand(batch.count, -1)

    def fingerprint(self) -> str:
        """Of the file that defines the function, or of its source in a notebook: an order that changes gets another one."""
        file = Path(self.function.__code__.co_filename)
        text = inspect.getsource(self.function) if from_cell(self.function) else file.read_text(encoding="utf-8")
        return hashlib.sha256(text.encode()).hexdigest()[:12]


_orders: dict[str, Order] = {}
_files: set[Path] = set()


def from_cell(function: Callable) -> bool:
    """Whether a function was written in a notebook's cell, which is run again and again, and not in a file."""
    return not Path(function.__code__.co_filename).is_file()


def order(name: str, **properties) -> Callable[[Callable], Callable]:
    """Register the decorated function as the order of that name. Raises ValueError for a name that is taken; only an order
    that was written in a notebook's cell is replaced when a cell registers the name again.

    needs: what it is computed from: `nothing`, `comae` (a trained CoMAE, or the graph that the profile has in its place),
    `pixels`, `classifier` (the ViT trained on whole images), `predictor` (that of notebook 1) or `measured` (the graph that this
    predictor measures). looks: whether it uses patches that have not been seen yet; left out,
    whether it needs anything and is not shared. shared: one order (N,) for all images. mirror: what the order of a
    mirrored image is: `moves`, the mirrored order; `own`, computed from the mirrored image; `stays`, the same order, which
    is the rule for shared ones. trained: whether notebook 5 trains and tests a classifier along it: with `every seed`,
    with `seed 0` only, or `never`. stored: keep the orders of a split as an artefact, for those that take long. settings: the
    field of the profile that holds its numbers. version:
    raise it when the same name would give another order. colour, dash, width: its line in figures.
    """

    def register(function: Callable) -> Callable:
        if name in _orders and not (from_cell(function) and from_cell(_orders[name].function)):
            raise ValueError(f"an order named {name!r} is registered already; choose another name")
        _orders[name] = Order(name, function, **properties)
        return function

    return register


def load(path: Path) -> dict[str, Order]:
    """Execute a Python file; the orders that it registers, by name. One that fails registers nothing: ValueError."""
    before = dict(_orders)
    try:
        runpy.run_path(str(path))
    except (Exception, SystemExit) as error:
        forget(before)
        raise ValueError(f"{path} fails with {type(error).__name__}: {' '.join(str(error).split())}") from error
    return {name: o for name, o in _orders.items() if name not in before}


def forget(kept: dict[str, Order]) -> None:
    """Let the registry hold these orders and no others."""
    _orders.clear()
    _orders.update(kept)


def alone(path: Path) -> dict[str, Order]:
    """What `load` returns, with nothing left in the registry, so that several files may use the same names."""
    before = dict(registered())
    found = load(path)
    forget(before)
    return found


def registered() -> dict[str, Order]:
    """All orders by name: those of `cop.orders.entries`, then those of the files in `COP_ORDERS`."""
    for file in filter(None, os.environ.get("COP_ORDERS", "").split(os.pathsep)):
        path = Path(file).expanduser().absolute()
        if path not in _files:
            if not path.is_file():
                raise FileNotFoundError(f"COP_ORDERS names {path}, which is no file; expected Python files with orders")
            load(path)
            _files.add(path)
    return _orders


def get(name: str) -> Order:
    """The order of that name. Raises ValueError for an unknown one."""
    found = registered()
    if name not in found:
        raise ValueError(f"unknown order {name!r}; expected one of {', '.join(found)}")
    return found[name]


def added() -> tuple[str, ...]:
    """Names of the orders that do not come with the package."""
    return tuple(name for name, o in registered().items() if o.function.__module__ != "cop.orders.entries")


def as_order(order: "str | Tensor | Callable | Order") -> Order:
    """Whatever may stand for an order: a registered name, a ranking (n, N) of the images in question or (N,) for all of
    them, or a function of a batch that returns one. Raises ValueError for anything else."""
    if isinstance(order, Order):
        return order
    if isinstance(order, str):
        return get(order)
    if isinstance(order, Tensor):

        def given(batch) -> Tensor:
            if order.ndim == 2 and len(order) != batch.total:
                raise ValueError(f"{len(order)} rankings for {batch.total} images; expected one per image, of the same "
                                 "split in the same order")  # fmt: skip
            return order[batch.rows.to(order.device)] if order.ndim == 2 else order

        return Order("given ranking", given, needs="nothing", shared=order.ndim == 1)
    if isinstance(order, Callable):
        known = [o for o in registered().values() if o.function is order]
        return known[0] if known else Order(getattr(order, "__name__", type(order).__name__), order)
    raise ValueError(f"an order is given as {type(order).__name__}; expected a ranking tensor, a function of a batch, or one of "
                     f"{', '.join(registered())}")  # fmt: skip
