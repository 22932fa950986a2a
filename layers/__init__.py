"""Reusable network layers: each an nn.Module with plain arguments."""
