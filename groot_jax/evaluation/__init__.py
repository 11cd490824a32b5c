"""Beams of a checkpoint, scored, kept and shown. May not change a parameter or know a loss."""
