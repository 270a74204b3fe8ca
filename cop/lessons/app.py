"""`python -m cop app`: the book's page that ranks a photograph as a local application, by Gradio, for networks of your own."""

import functools
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cop.data.inputs import read_images
from cop.data.pictures import center_crop, upright
from cop.devices import inference
from cop.lessons import pipeline
from cop.lessons.ranks import ranker
from cop.orders import collapse_order
from cop.paper import comae, entropy, graphnet, hub, measured, onepass
from cop.paper.ranking import pagerank
from cop.profiles import PROFILES, get_profile
from cop.show.overlay import overlay

ORDERS = {f"collapse order, {whose} graph": ("collapse", graph) for whose, graph in (("measured", "measured"), ("the paper's", "comae"))}
ORDERS |= {name: (name, None) for name in ("coverage", "active", "variance", "low-discrepancy", "random")}
GRAPHS = {  # of the networks that save_pretrained stores, from tokens (B, N, C)
    comae.CoMAE: lambda model, tokens: model.dependencies(tokens),
    graphnet.GraphNet: lambda model, tokens: model(tokens),
    onepass.OnePass: lambda model, tokens: model.graph(tokens),
    entropy.TokenPredictor: measured.measured_graph,
}
OWN = "collapse order, the graph of the weights"


@functools.lru_cache(maxsize=8)
def loaded(profile: str, order: str, weights: str = "") -> Callable[[Tensor], Tensor]:
    """The function from images (B, C, H, W) to orders (B, N). weights: of `OWN`, what `Pretrained.from_pretrained` takes."""
    if order != OWN:
        return ranker(profile, order=ORDERS[order][0], graph=ORDERS[order][1])
    kinds, found = {kind.__name__: kind for kind in GRAPHS}, hub.read_config(weights).get("architectures")
    kind = next((kinds[name] for name in kinds if [name] == found), None)
    if kind is None:
        raise ValueError(f"{weights} holds {found}, which has no graph; expected one of {', '.join(kinds)}")
    p, device = get_profile(profile), pipeline.resolve_device()
    model, tokenizer = kind.from_pretrained(weights, device=device), pipeline.tokenizer(p, device)

    @torch.no_grad()
    def ranking(images: Tensor) -> Tensor:
        with inference(p, device):
            graph = GRAPHS[kind](model, tokenizer.encode(images.to(device)))
        return collapse_order(pagerank(graph, p.ranking.damping)).cpu()

    return ranking


def drawn(photo: Image.Image, ranking: Tensor, percent: float) -> tuple[list[Image.Image], str]:
    """What so many per cent of the patches show, all others grey, and the whole order (N,) over it; and a line of text."""
    N, G = len(ranking), round(len(ranking) ** 0.5)
    count = max(1, round(percent / 100 * N))
    side = G * max(4, min(1024, *photo.size) // G)  # pixels
    square = center_crop(photo, side).convert("RGB")
    hidden = np.isin(np.arange(N), ranking[count:].numpy()).reshape(G, G).repeat(side // G, 0).repeat(side // G, 1)
    seen = np.where(hidden[..., None], np.uint8([70, 70, 78]), np.asarray(square))
    return [Image.fromarray(seen), overlay(square, ranking, count / N)], f"{count} of {N} patches"


def build(profile: str = "natural", weights: str | None = None):
    """The application, not yet started. Raises RuntimeError where Gradio is not installed."""
    try:
        import gradio as gr
    except ImportError:
        raise RuntimeError("python -m cop app needs Gradio, which is not installed: pip install 'gradio>=5'") from None
    orders = [OWN, *ORDERS] if weights else list(ORDERS)

    def ranked(photo, *how):
        try:
            return None if photo is None else loaded(*how)(read_images(photo, how[0]))[0]
        except (ValueError, OSError, RuntimeError) as error:
            raise gr.Error(str(error)) from None

    def shown(photo, ranking, percent):
        return ([], "") if photo is None or ranking is None else drawn(upright(photo), ranking, percent)

    with gr.Blocks(title="Rank your photograph", analytics_enabled=False) as app:
        gr.Markdown("# Rank your photograph\nWhich patches would an order look at first? The photograph stays on this machine.")
        with gr.Row():
            photo = gr.Image(type="pil", label="photograph", height=360)
            with gr.Column():
                order = gr.Dropdown(orders, value=orders[0], label="order")
                own = gr.Dropdown(list({**PROFILES, profile: None}), value=profile, label="profile: whose networks", allow_custom_value=True)
                folder = gr.Textbox(weights or "", label=f"weights of '{OWN}'", visible=bool(weights))
                percent = gr.Slider(1, 100, 22, step=1, label="% of the patches seen")
        pictures = gr.Gallery(label="seen, and the whole order: yellow first", columns=2, object_fit="contain")
        line, ranking = gr.Markdown(), gr.State()
        for part in (photo, order, own, folder):
            part.change(ranked, [photo, own, order, folder], ranking).then(shown, [photo, ranking, percent], [pictures, line])
        percent.change(shown, [photo, ranking, percent], [pictures, line])
    return app


def main(profile: str = "natural", weights: str | None = None, port: int = 7860) -> None:
    """Serve the application on this machine alone, until it is interrupted."""
    build(profile, weights).launch(server_name="127.0.0.1", server_port=port, share=False)
