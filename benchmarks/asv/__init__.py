"""asv suite: the history of this library's own speed and memory. One module per resource."""
