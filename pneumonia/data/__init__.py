"""From X-ray files to batches: releases, manifest, splits, cache, data module."""
