"""Where arrays lie: the layout over a mesh, and arrays of several processes. Knows no model."""
