"""From files to batches: data sets, transforms, order, loaders."""
