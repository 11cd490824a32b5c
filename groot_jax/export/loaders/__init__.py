"""What an exported folder labels with: `labeling.py`, made of words.py and one of the searches.

Files of their own: of groot_jax they may import each other alone.
"""
