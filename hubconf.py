"""The trained networks by `torch.hub.load(REPOSITORY, NAME)`, where REPOSITORY is the project's address on GitHub, or a clone's
folder with `source="local"`. Arguments are those of the functions below; weights of what is released come with the project."""

dependencies = ["torch", "torchvision", "timm", "safetensors", "huggingface_hub", "numpy", "pandas", "PIL", "filelock", "tqdm"]


def comae(profile="natural", seed=0, device="auto"):
    """The paper's dependency autoencoder: `model.dependencies(tokens)` is the graph of each image."""
    from cop.lessons import pipeline

    return pipeline.comae(profile, seed, device)[0]


def predictor(profile="natural64", seed=0, device="auto"):
    """Mean and scale of hidden patches given those that are seen: `model(tokens, seen)`."""
    from cop.lessons import pipeline

    return pipeline.predictor(profile, seed, device)[0]


def onepass(profile="natural64", seed=0, kind=None, device="auto"):
    """The measured graph of an image in one pass: `model.graph(tokens)`."""
    from cop.lessons import measured

    return measured.onepass(profile, seed, kind, device)[0]


def classifier(profile="demo", system="RViT", seed=0, device="auto"):
    """A ViT for the first patches of an order: `model(images, keep_idx)`."""
    from cop.lessons import classification

    return classification.classifier(profile, system, seed, device)[0]


def tokenizer(profile="natural64", device="auto"):
    """What makes tokens (B, N, C) of images (B, C, H, W): `tokens.encode(images)`."""
    from cop.lessons import pipeline

    return pipeline.tokenizer(profile, device)


def rank(images, profile="natural", seed=0, device="auto", **how):
    """`cop.rank`: the orders (B, N) of files, a folder, PIL images, arrays or tensors."""
    import cop

    return cop.rank(images, profile, seed, device, **how)
