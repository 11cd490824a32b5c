"""A trained labeler as a folder that others serve: transformers, Flax, CTranslate2, or plain JAX.

    python -m groot_jax.export --workdir=runs/mine --out=served --format=transformers

The job is `__main__.py`. Beside the model each folder holds `labeling.py` (see loaders/), which
turns words into ranked labelings without groot_jax.
"""
