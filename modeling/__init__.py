"""Networks, losses and initial weights: one file per architecture family."""
