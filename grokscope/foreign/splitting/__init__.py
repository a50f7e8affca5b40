"""The training pairs: listed, recorded, searched among the known recipes, or recovered from the losses."""
