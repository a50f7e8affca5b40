"""Mathematics only: tensors in, tensors out; no files, no figures, no settings."""
