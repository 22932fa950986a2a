"""Reusable building blocks, each an nn.Module that takes plain arguments."""
