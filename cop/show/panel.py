"""A picture that follows its controls in a notebook, and a picture alone where controls do not run (see `cop.show.widgets`)."""

import base64
import functools
import html
import importlib.util
import io
import os
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from cop.show import figures_widgets
from cop.show.figures import STYLE

VIEW = "application/vnd.jupyter.widget-view+json"
SECONDS = 12  # that Play takes from one end of a slider to the other
FRAME, REST, ROUNDS = 400, 2500, 3  # of an animation: milliseconds per frame, of the last frame, and how often it plays
FRAMES, COLOURS = 20, 96  # of an animation


class Panel:
    """A picture that follows its controls: a slider with Play, and further choices. As a cell's last line it shows itself.

    A subclass says what to `draw` and how to `say` it (the alt text) for given values of the controls, and which
    `choices` there are beside the slider, whose value is called `slides` (None: no slider) and `unit` to the reader.
    """

    slides, unit, fewest, step = "seen", "patches", 0, 1
    moves: Sequence[int] = ()  # the slider's values in the animation that stands for the panel, if there is one

    def __init__(self, most: int = 0, **start):
        """most: the slider's last value; start: the values of the first picture, by control. Raises ValueError for an
        impossible value of the slider."""
        if self.slides and not self.fewest <= start[self.slides] <= most:
            raise ValueError(
                f"{self.slides} is {start[self.slides]}; expected a number of {self.unit} from {self.fewest} to {most}"
            )
        self.most, self.start = most, start

    def draw(self, **values) -> Figure:
        raise NotImplementedError

    def say(self, **values) -> str:
        raise NotImplementedError

    def choices(self) -> dict:
        """ipywidgets controls by the name of the value they hold."""
        raise NotImplementedError

    def picture(self, **values) -> tuple[str, dict]:
        """The picture for these values: PNG in base64, and its alt text and size as shown in CSS pixels."""
        fig, buffer = self.draw(**values), io.BytesIO()
        fig.savefig(buffer, format="png", dpi=STYLE["savefig.dpi"])
        width, height = (round(inches * STYLE["figure.dpi"]) for inches in fig.get_size_inches())
        about = {"alt": self.say(**values), "width": width, "height": height}
        return base64.b64encode(buffer.getvalue()).decode(), about

    def animation(self) -> tuple[str, dict]:
        """As `picture`, an animated PNG of the first picture along `moves`, of about FRAMES of them where there are more. What
        does not play it shows the first picture."""
        data, about = self.picture(**self.start)
        moves = [*self.moves[: -1 : -(-len(self.moves) // FRAMES)], self.moves[-1]]
        frames = [data, *(self.picture(**self.start | {self.slides: k})[0] for k in moves)]
        shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(frame))).convert("RGB")) for frame in frames]
        strip, height = Image.fromarray(np.concatenate(shown)).quantize(COLOURS), len(shown[0])  # one palette for all
        still, *rest = (strip.crop((0, k * height, strip.width, (k + 1) * height)) for k in range(len(shown)))
        times, buffer = [FRAME] * (len(rest) - 1) + [REST], io.BytesIO()
        still.save(buffer, "png", save_all=True, append_images=rest, default_image=True, duration=times, loop=ROUNDS)
        about["alt"] += f" The picture moves from {self.moves[0]} to {self.moves[-1]} {self.unit}."
        return base64.b64encode(buffer.getvalue()).decode(), about

    @functools.cached_property
    def live(self):
        """The controls over the picture, an ipywidgets box. Raises ImportError without ipywidgets."""
        import ipywidgets as w

        wrap, shown = w.Layout(flex_flow="row wrap"), w.HTML()
        self.controls = self.choices()
        rows = [w.HBox(list(self.controls.values()), layout=wrap)]
        if self.slides:
            where = {"value": self.start[self.slides], "min": self.fewest, "max": self.most, "step": self.step}
            interval = 1000 * SECONDS * self.step // (self.most - self.fewest)
            play = w.Play(**where, interval=interval, show_repeat=False)
            slider = w.IntSlider(**where, description=self.unit, layout={"width": "360px", "max_width": "100%"})
            w.jslink((play, "value"), (slider, "value"))
            self.controls[self.slides] = slider
            rows.append(w.HBox([play, slider], layout=wrap))

        def update(_=None) -> None:
            data, about = self.picture(**{name: c.value for name, c in self.controls.items()})
            size = f'width="{about["width"]}" height="{about["height"]}"'
            shown.value = (f'<img alt="{html.escape(about["alt"])}" {size} decoding="sync" style="max-width: 100%; height: auto" '
                           f'src="data:image/png;base64,{data}">')  # fmt: skip

        for control in self.controls.values():
            control.observe(update, "value")
        update()
        return w.VBox([*rows, shown])

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        """The first picture, and where somebody can move them the controls, which a notebook prefers to show."""
        controls = os.environ.get("COP_PROGRESS") != "0" and importlib.util.find_spec("ipywidgets")
        data, about = self.animation() if self.moves and not controls else self.picture(**self.start)
        bundle = {"text/plain": about["alt"], "image/png": data}
        if controls:
            bundle[VIEW] = {"version_major": 2, "version_minor": 0, "model_id": self.live.model_id}
        return bundle, {"image/png": about}


def menu(name: str, options: Sequence, value):
    """A dropdown."""
    import ipywidgets as w

    return w.Dropdown(options=options, value=value, description=name, layout={"width": "240px"})


def numbered(titles: Sequence[str]) -> list[tuple[str, int]]:
    """The options of a menu of images."""
    return [(f"{i + 1} · {title}", i) for i, title in enumerate(titles)]


def pad(grid: int, pressed: Sequence[int], several: bool, values: Callable[[tuple[int, ...]], np.ndarray], top: float):
    """A button per patch, in the colours of the map `values` (N,) from 0 to `top`. Its `value` is the tuple of those pressed:
    any number of them, which a second press releases, or with `several` False the last one."""
    import ipywidgets as w
    import traitlets

    class Pad(w.GridBox):
        value = traitlets.Tuple()

    side = {"width": "auto", "height": f"{240 // grid}px", "margin": "0", "padding": "0"}
    buttons = [w.Button(tooltip=f"patch {n}", layout=side) for n in range(grid**2)]
    columns = f"repeat({grid}, 1fr)"
    box = Pad(
        buttons, layout={"width": "240px", "grid_template_columns": columns, "grid_gap": "1px", "margin": "2px 12px"}
    )

    def paint() -> None:
        for n, (button, value) in enumerate(zip(buttons, values(box.value), strict=True)):
            button.style.button_color = to_hex(figures_widgets.colour(value / top))
            button.style.text_color = "white"
            # A blank and not an empty text: ipywidgets' buttons keep their text when it becomes empty.
            button.description = "✕" if n in box.value else "\N{NO-BREAK SPACE}"

    def press(n: int) -> None:
        others = tuple(k for k in box.value if k != n)
        box.value = (n,) if not several else others if n in box.value else (*others, n)

    for n, button in enumerate(buttons):
        button.on_click(lambda _, n=n: press(n))
    box.paint = paint
    box.observe(lambda _: paint(), "value")
    box.value = tuple(pressed)
    paint()
    return box
