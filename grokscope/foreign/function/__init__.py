"""Tensors to a function: layouts by card and by common names, and a search of what they leave open."""
