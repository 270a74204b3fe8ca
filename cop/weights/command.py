"""`python -m cop weights [NAME [--path FILE]]`."""

from cop.weights.table import fetch, listing


def main(name: str | None = None, path: str | None = None) -> None:
    """`python -m cop weights [NAME [--path FILE]]`: list, or fetch, check and convert."""
    if name is None:
        print(listing())
        return
    from cop.weights.convert import convert, model_of  # loads torch, which the listing does not need

    file = fetch(name, path, check=True)
    if model_of(name) is None or file.suffix == ".safetensors":
        print(f"{name}: {file}")
    else:
        print(f"{name}: {convert(name, file)} (converted; {file} is no longer needed)")
