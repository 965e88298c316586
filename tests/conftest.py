"""Array shapes, checked at run time: every annotation of these modules, on every call in a test.

The hook must be installed before they are imported, so it is here and not in tests/train.
"""

from jaxtyping import install_import_hook

install_import_hook(
    [
        f"tempo_ray.train.{module}"
        for module in ("attention", "batch", "loss", "objective", "policy", "sequences")
    ],
    "beartype.beartype",
)
