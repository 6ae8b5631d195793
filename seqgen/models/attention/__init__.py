"""Attention: reading a glimpse from an image and writing a sprite onto the canvas (secs. 2, 3.2.3).

Each kind makes readers and a writer, whose windows are functions of the state h alone. Shapes: B batch, C channels,
H x W image, P side of glimpse or sprite, D size of h. A window's corners are given in pixels, (0, 0) the upper left
edge of the image and (W, H) the lower right.
"""
