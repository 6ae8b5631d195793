"""Attention: reading a glimpse from an image and writing a sprite onto the canvas (secs. 2, 3.2.3).

Each kind is a reader and a writer whose window is a function of the LSTM's state h alone. Shapes: B batch, C channels,
H x W image, P side of glimpse or sprite, D size of h. A window's corners are given in pixels, (0, 0) the upper left
edge of the image and (W, H) the lower right.
"""
